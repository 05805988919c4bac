"""What two bases of different skill are told apart by, before anything is tuned."""

from pathlib import Path
from typing import Any

import pytest

from evals import bases
from moatelier.errors import Cancelled, DataError
from moatelier.job import Job
from moatelier.settings import settings
from modalities import pull
from modalities.text import data
from modalities.text.rows import SYSTEM, Row
from store import artifacts
from tests import fakes

LABELS = list(fakes.INTENTS)


def rows(count: int = 24, longer: str = "") -> list[Row]:
    made = []
    for number in range(count):
        label = LABELS[number % 3]
        text = fakes.INTENTS[label][number % 4] + longer
        turns = (("system", SYSTEM["classification"]), ("user", text), ("assistant", label))
        made.append(Row(number + 1, tuple({"role": role, "content": content} for role, content in turns), label))
    return made


@pytest.fixture
def taught(home: Path, tiny: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`tiny` after it has seen the rows."""
    folder = fakes.taught_llama(tmp_path / "taught", tiny_folder, [list(row.messages) for row in rows(12)])
    entry = {"id": "taught", "sources": [{"type": "path", "path": str(folder)}]}
    file = fakes.tiny_catalogue(home / "two.yaml", tiny_folder, None, entry)
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(file))
    settings.cache_clear()
    pull.pull("taught")
    return "taught"


def weigh(home: Path, base: str, made: list[Row]) -> dict[str, Any]:
    spec = {"base": base, "rows": artifacts.put_bytes(data.write_rows(made)), "seed": 0}
    return bases.work(spec, Job(home / "jobs" / base, quiet=True))


def test_a_base_that_knows_the_answers_prefers_them_at_a_lower_loss(home: Path, tiny: str, taught: str) -> None:
    plain, better = (weigh(home, base, rows()) for base in (tiny, taught))
    assert plain["rows"] == better["rows"] == 24
    assert better["loss"] < 0.5 * plain["loss"] and better["zero_shot"] > plain["zero_shot"]
    assert better == weigh(home, taught, rows())


def test_at_most_64_rows_count_and_one_answer_gives_no_score(home: Path, tiny: str) -> None:
    assert weigh(home, tiny, rows(80))["rows"] == bases.ROWS
    same = [row for row in rows() if row.label == LABELS[0]]
    assert weigh(home, tiny, same)["zero_shot"] is None


def test_rows_that_the_base_cannot_read_are_left_out(home: Path, tiny: str) -> None:
    long = rows(3, longer=" where is my order" * 200)
    assert weigh(home, tiny, [*rows(6), *long])["rows"] == 6
    with pytest.raises(DataError):
        weigh(home, tiny, long)


def test_a_job_that_is_stopped_stops(home: Path, tiny: str) -> None:
    job = Job(home / "jobs" / "stop", quiet=True)
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        bases.work({"base": tiny, "rows": artifacts.put_bytes(data.write_rows(rows()))}, job)
