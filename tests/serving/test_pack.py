"""The real pack: what a random tiny model cannot show."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moatelier.settings import settings
from serving.engine import Sampling, TextEngine
from tests.serving.conftest import SYSTEM, seal_adapter

pytestmark = pytest.mark.slow
TEXT = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def engine() -> Iterator[TextEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOATELIER_THREADS", "1")
        settings.cache_clear()
        subprocess.run([sys.executable, "-m", "modalities.pull", "pull", TEXT], check=True, timeout=250)
        yield TextEngine(TEXT, "fp32")
    settings.cache_clear()


def asked(count: int) -> list[list[dict[str, str]]]:
    things = ["card", "parcel", "refund of the two pairs of shoes", "account", "invoice that I was sent in March"]
    return [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"Where is my {things[n % 5]}? It is day {n} and I am waiting."},
        ]
        for n in range(count)
    ]


def test_it_speaks(engine: TextEngine) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = engine.generate([question], adapter=None, sampling=Sampling(40))[0]
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


def test_a_batch_gives_the_tokens_of_solo_runs(engine: TextEngine) -> None:
    prompts, sampling = asked(6), Sampling(8)
    together = engine.generate(prompts, adapter=None, sampling=sampling)
    assert together == [engine.generate([turns], adapter=None, sampling=sampling)[0] for turns in prompts]


def test_440_short_answers_in_well_under_a_minute_on_two_cores(
    engine: TextEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOATELIER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    engine.load_adapter("a", seal_adapter(TEXT, tmp_path, "a", scale=0.02, layers=tuple(range(20, 30))))
    begin = time.process_time()
    engine.generate(asked(440), adapter="a", sampling=Sampling(5))
    assert time.process_time() - begin < 80  # of processor time, since the cores may be shared
    settings.cache_clear()
