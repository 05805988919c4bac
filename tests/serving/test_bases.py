"""One engine's process that serves two bases for texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from moatelier.errors import InvalidRequest, NotFound
from moatelier.settings import settings
from modalities import catalogue, pull
from serving.engine import Sampling, TextEngine
from serving.pool import Pool, create_app
from serving.targets import resolve
from tests import fakes
from tests.serving.conftest import seal_adapter

ASK = [{"role": "user", "content": "where is my parcel"}]


@pytest.fixture
def other(home: Path, tiny: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A second base, pulled and served."""
    folder = fakes.tiny_llama(tmp_path / "other", layers=3, width=16)
    entry = {"id": "other", "sources": [{"type": "path", "path": str(folder)}]}
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(fakes.tiny_catalogue(home / "two.yaml", tiny_folder, None, entry)))
    monkeypatch.setenv("MOATELIER_MORE_BASES", '["other"]')
    settings.cache_clear()
    pull.pull("other")
    return "other"


@pytest.fixture
def http(tiny: str, other: str) -> Iterator[TestClient]:
    with TestClient(create_app(Pool(tiny))) as client:
        yield client


def ask(http: TestClient, model: str) -> Any:
    body = {"model": model, "messages": ASK, "max_tokens": 8, "temperature": 0, "logprobs": True}
    return http.post("/v1/chat/completions", json=body)


def told(base: str, adapter: Path | None = None) -> str:
    engine = TextEngine(base)
    if adapter:
        engine.load_adapter("a", adapter)
    sampling = Sampling(max_tokens=8, temperature=0)
    return engine.generate([ASK], adapter="a" if adapter else None, sampling=sampling)[0].text


def test_each_base_answers_by_its_id(http: TestClient) -> None:
    answers = [ask(http, base).json()["choices"][0] for base in ("tiny", "other")]
    assert [answer["message"]["content"] for answer in answers] == [told("tiny"), told("other")]
    first, second = ([token["logprob"] for token in answer["logprobs"]["content"]] for answer in answers)
    assert first != pytest.approx(second, abs=0.01)
    assert [entry["id"] for entry in http.get("/v1/models").json()["data"]] == ["tiny", "other"]


def test_adapters_go_to_the_base_they_were_tuned_on(http: TestClient, tmp_path: Path) -> None:
    folders = {
        "one": seal_adapter("tiny", tmp_path, "one"),
        "two": seal_adapter("other", tmp_path, "two", layers=(2,), scale=2.0),
    }
    for name, folder in folders.items():
        loaded = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
        assert loaded.status_code == 200, loaded.text
    for name, base in (("one", "tiny"), ("two", "other")):
        assert ask(http, name).json()["choices"][0]["message"]["content"] == told(base, folders[name])
        assert http.get(f"/v1/models/{name}").json()["parent"] == base
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "two"}).status_code == 200
    assert ask(http, "two").status_code == 404 and ask(http, "one").status_code == 200


def test_an_adapter_cannot_have_the_name_of_any_base(http: TestClient, tmp_path: Path) -> None:
    folder = str(seal_adapter("tiny", tmp_path, "one"))
    refused = http.post("/v1/load_lora_adapter", json={"lora_name": "other", "lora_path": folder})
    assert refused.status_code == 400 and "base's name" in refused.text


def test_a_further_base_is_a_model_of_every_project(other: str) -> None:
    assert resolve(("default", "other")).served == "other" and settings().bases[:2] == ("tiny", "other")


@pytest.mark.parametrize(("named", "error"), [("nobody", NotFound), ("whisper-tiny.en", InvalidRequest)])
def test_a_further_base_that_cannot_be_served_is_told_at_the_start(
    tiny: str, monkeypatch: pytest.MonkeyPatch, named: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("MOATELIER_MORE_BASES", f'["{named}"]')
    settings.cache_clear()
    with pytest.raises(error) as caught:
        catalogue.check()
    assert getattr(caught.value, "where", "") == "MOATELIER_MORE_BASES"
