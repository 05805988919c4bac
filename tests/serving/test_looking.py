"""Questions about pictures: what was trained is what is served, each picture is its own, and blindness is seen."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load, save

from moatelier.contracts import DatasetCard, TrainSpec
from moatelier.errors import Conflict, DataError, IntegrityError, InvalidRequest, NotFound
from moatelier.job import Job
from modalities import bundle
from modalities.bundle import bundle_folder, read_manifest
from modalities.imagetext import data
from modalities.imagetext.config import PROJECTOR, SIGHT
from modalities.text.model import TextBase, load_base
from serving.engine import TextEngine
from serving.looking import LookingEngine
from serving.pool import Pool, create_app
from serving.row import Prompt, Row
from serving.sampling import Sampling
from store import artifacts
from tests.modalities.vision.pictures import drawn, encoded
from tests.sighted import LABELS, both, pictures, questions, spec
from training.imagetext import prepare
from training.run import read_rows, work

__all__ = ["both"]
ANSWER = Sampling(6)
Remake = Callable[..., Path]


@pytest.fixture
def loud(both: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny language model turned up, for training and serving alike: as it is drawn it says the same to all."""

    def load(base_id: str, precision: Any = "auto") -> TextBase:
        base = load_base(base_id, precision)
        for name, weight in base.model.named_parameters():
            if name.endswith("_proj.weight"):
                weight.mul_(10)
        return base

    monkeypatch.setattr("serving.engine.load_base", load)
    monkeypatch.setattr("modalities.text.model.load_base", load)
    return both


@pytest.fixture
def dataset(loud: str) -> str:
    return questions(9, 3)


def bright(files: dict[str, bytes]) -> None:
    tensors = load(files[PROJECTOR])
    files[PROJECTOR] = save(tensors | {"outer.weight": tensors["outer.weight"] * 30})


def trained(home: Path, dataset: str, name: str, **changes: Any) -> Path:
    """A bundle after a few steps whose pictures shine far brighter than so few steps would make them."""
    fields = spec(dataset, epochs=4.0, learning_rate=0.03, size=96, **changes)
    return remade(bundle_folder(work(fields, Job(home / "jobs" / name, quiet=True))["bundle"]), bright)


@pytest.fixture
def tuned(home: Path, dataset: str) -> Path:
    return trained(home, dataset, "tuned")


@pytest.fixture
def engine(tuned: Path) -> LookingEngine:
    made = LookingEngine("tiny", "fp32")
    made.load_adapter("eyed", tuned)
    return made


def remade(folder: Path, change: Callable[[dict[str, bytes]], None] = lambda files: None, **fields: Any) -> Path:
    """The same bundle with other bytes or other fields, sealed anew."""
    manifest = read_manifest(folder)
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    change(files)
    told = {name: getattr(manifest, name) for name in type(manifest).model_fields if name != "files"}
    return bundle_folder(bundle.seal(files, **told | fields))


def about(image: str, question: str = "What is shown?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "artifact": image}, {"type": "text", "text": question}]}]


def prompts(count: int = 6, start: int = 50) -> list[list[dict[str, Any]]]:
    return [about(row.image) for row in pictures(count, start)]


def told(engine: LookingEngine, prompt: Prompt) -> list[float]:
    """The log probabilities of a row's tokens but the first, beside the picture that a prompt shows."""
    [row] = engine.text.enter([prompt], adapters=["eyed"], sampling=Sampling(1), scored=0)
    engine.text.finish([row])
    return [each.logprob for each in row.prompt_told]


def test_the_loss_that_was_trained_is_what_is_served(home: Path, dataset: str, tuned: Path) -> None:
    card = DatasetCard.model_validate(artifacts.get_json(dataset))
    rows = {"train": read_rows(card, "train"), "dev": []}
    objective = prepare(
        TrainSpec.model_validate(spec(dataset, size=96)), card, rows, Job(home / "jobs" / "j", quiet=True)
    )
    low, own = (load((tuned / name).read_bytes()) for name in ("adapter_model.safetensors", PROJECTOR))
    objective.restore(low | {f"projector.{name}": tensor for name, tensor in own.items()})
    objective.model.eval()
    engine = LookingEngine("tiny", "fp32")
    engine.load_adapter("eyed", tuned)
    for number, row in enumerate(data.rows_of(rows["train"])[:6]):
        turns = row.messages[:-1]
        [asked] = engine.submit(turns, data.open_image(row), adapter="eyed", sampling=ANSWER)
        engine.text.cancel(asked)
        answer = engine.text.base.tokenizer(row.answer).input_ids + [engine.text.base.stop_ids[0]]
        ids = [*asked.lanes[0].ids[: asked.prompt_tokens], *answer]
        likelihoods = told(engine, Prompt(ids, asked.lanes[0].inset))[-len(answer) :]
        with torch.no_grad():
            assert -sum(likelihoods) == pytest.approx(float(objective.loss([number])), rel=1e-3)
    objective.close()


def test_answers_depend_on_the_picture_and_a_blind_model_says_the_same_to_all(engine: LookingEngine) -> None:
    drawn_alike = Sampling(12, temperature=1.5, seed=3)  # the same draws, so that only the chances differ
    seen = engine.generate(prompts(), adapter="eyed", sampling=drawn_alike)
    blind = engine.generate(prompts(), adapter="eyed", sampling=drawn_alike, blind=True)
    assert len({answer.ids for answer in seen}) > 1
    assert len({answer.ids for answer in blind}) == 1
    assert [answer.ids for answer in seen] != [answer.ids for answer in blind]
    assert {answer.prompt_tokens for answer in seen} == {answer.prompt_tokens for answer in blind}


def test_a_batch_and_shared_words_change_no_answer(engine: LookingEngine, tuned: Path) -> None:
    asked = [about(row.image, "What is shown in here, please tell me in a few words?") for row in pictures(5, 50)]
    together = engine.generate(asked, adapter="eyed", sampling=ANSWER)
    again = engine.generate(asked, adapter="eyed", sampling=ANSWER)
    assert engine.text.blocks.hits > 0
    alone = LookingEngine("tiny", "fp32", text=TextEngine("tiny", "fp32", share=False))
    alone.load_adapter("eyed", tuned)
    apart = [alone.generate([one], adapter="eyed", sampling=ANSWER)[0] for one in asked]
    assert [answer.ids for answer in together] == [answer.ids for answer in again] == [answer.ids for answer in apart]


def test_a_bundle_that_is_loaded_again_gives_the_same_answers(engine: LookingEngine, tuned: Path) -> None:
    before = engine.generate(prompts(), adapter="eyed", sampling=ANSWER)
    engine.unload_adapter("eyed")
    assert engine.adapters == {} == engine.text.adapters
    assert engine.load_adapter("again", tuned, pinned=True).digest == tuned.name
    assert engine.generate(prompts(), adapter="again", sampling=ANSWER) == before
    engine.rest()
    assert engine.generate(prompts(), adapter="again", sampling=ANSWER) == before


def test_two_adapters_of_one_base_answer_in_one_batch(home: Path, dataset: str, engine: LookingEngine) -> None:
    engine.load_adapter("other", trained(home, dataset, "other", seed=1))
    alone = {name: engine.generate(prompts(1, 60), adapter=name, sampling=ANSWER)[0] for name in ("eyed", "other")}
    shown = [{"role": "user", "content": "What is shown?", "picture": True}]
    image = data.open_image(data.ask(pictures(1, 60), LABELS)[0])
    rows: list[Row] = []
    for name in ("eyed", "other"):
        rows += engine.submit(shown, image, adapter=name, sampling=ANSWER)
    engine.text.finish(rows)
    assert [tuple(row.ids) for row in rows] == [alone["eyed"].ids, alone["other"].ids]
    assert alone["eyed"].ids != alone["other"].ids


@pytest.mark.parametrize(
    ("prompt", "error", "told"),
    [
        ([{"role": "user", "content": "What is shown?"}], InvalidRequest, "has no picture"),
        (about("0" * 64), NotFound, "artifact"),
        ("long", InvalidRequest, "the context of tiny"),
        ("damaged", DataError, "no image of a known format"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    engine: LookingEngine, prompt: Any, error: type[Exception], told: str
) -> None:
    if prompt == "long":
        prompt = about(pictures(1)[0].image, "where " * 600)
    elif prompt == "damaged":
        prompt = about(artifacts.put_bytes(b"words"))
    with pytest.raises(error, match=told):
        engine.generate([prompt], adapter="eyed", sampling=ANSWER)
    with pytest.raises(NotFound, match="shown pictures"):
        engine.generate(prompts(1), adapter="nobody", sampling=ANSWER)
    with pytest.raises(NotFound):
        engine.unload_adapter("nobody")


def test_only_the_words_reach_the_base(engine: LookingEngine) -> None:
    asked, words = prompts(2), [[{"role": "user", "content": "What is shown?"}]] * 2
    alone = engine.text.generate(words, adapter=None, sampling=ANSWER)
    told = engine.generate(asked, adapter=None, sampling=ANSWER)
    assert [one.text for one in told] == [one.text for one in alone] and len(told) == len(asked)


def spoilt_sight(files: dict[str, bytes]) -> None:
    files[SIGHT] = json.dumps(json.loads(files[SIGHT]) | {"base_digest": "f" * 64}).encode()


def other_vectors(files: dict[str, bytes]) -> None:
    files[SIGHT] = json.dumps(json.loads(files[SIGHT]) | {"vectors": 9}).encode()


def constant(files: dict[str, bytes]) -> None:
    tensors = load(files[PROJECTOR])
    files[PROJECTOR] = save(tensors | {"outer.weight": torch.zeros_like(tensors["outer.weight"])})


def no_safetensors(files: dict[str, bytes]) -> None:
    files[PROJECTOR] = b"no tensors"


def no_sight(files: dict[str, bytes]) -> None:
    del files[SIGHT]


@pytest.mark.parametrize(
    ("change", "fields", "told"),
    [
        (spoilt_sight, {}, "sees by eyes"),
        (other_vectors, {}, "of another shape"),
        (constant, {}, "no picture from another"),
        (no_safetensors, {}, "not readable"),
        (no_sight, {}, "how pictures come in"),
        (None, {"modality": "text"}, "runs no adapters of text"),
        (None, {"first_layer": 0}, "from layer 0 up"),
        (None, {"base_digest": "f" * 64}, "on base tiny"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(
    engine: LookingEngine, tuned: Path, change: Any, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(IntegrityError, match=told):
        engine.load_adapter("spoilt", remade(tuned, change or (lambda files: None), **fields))
    assert list(engine.adapters) == list(engine.text.adapters) == ["eyed"]


def test_a_name_that_stands_for_another_bundle_is_refused(engine: LookingEngine, tuned: Path) -> None:
    with pytest.raises(Conflict):
        engine.load_adapter("eyed", remade(tuned, suffix="other"))
    assert engine.generate(prompts(1), adapter="eyed", sampling=ANSWER)


# ---------------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture
def client(tuned: Path) -> TestClient:
    app = TestClient(create_app(Pool("tiny")))
    loaded = app.post("/v1/load_lora_adapter", json={"lora_name": "eyed", "lora_path": str(tuned)})
    assert loaded.status_code == 200, loaded.text
    return app


def body(*content: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": list(content)}]
    return {"model": "eyed", "messages": messages, "max_tokens": 6, **more}


def image_part(row: int = 50) -> dict[str, Any]:
    encoded_image = base64.b64encode(encoded(drawn(LABELS[row % 3], row, 48))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded_image}"}}


WORDS = {"type": "text", "text": "What is shown?"}


def test_chat_answers_in_words_and_streams_them(client: TestClient, engine: LookingEngine) -> None:
    api = openai.OpenAI(api_key="k", base_url="http://testserver/v1", http_client=client)
    [expected] = engine.generate(prompts(1), adapter="eyed", sampling=ANSWER)
    asked = body(image_part(), WORDS)
    answer = api.chat.completions.create(**asked, logprobs=True)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage and answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
    streamed = api.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == expected.text
    assert len(api.chat.completions.create(**asked, n=2).choices) == 2
    found = {model.id for model in api.models.list()}
    assert "eyed" in found
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "eyed"}).status_code == 200
    assert client.post("/v1/chat/completions", json=asked).status_code == 404


@pytest.mark.parametrize(
    ("content", "more", "where"),
    [
        ([WORDS], {}, "messages"),
        ([{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}], {}, "messages[0]"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], {}, "messages[0]"),
        ([{"type": "image", "artifact": "0" * 64}], {}, "messages[0]"),
        (["image"], {"prompt_logprobs": 0}, "prompt_logprobs"),
        (["image"], {"ensemble": ["eyed", "tiny"]}, "ensemble"),
        (["image"], {"model": "tiny", "ensemble": ["eyed", "tiny"]}, "messages[0]"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(client: TestClient, content: Any, more: Any, where: str) -> None:
    parts = [image_part() if part == "image" else part for part in content]
    refused: httpx.Response = client.post("/v1/chat/completions", json=body(*parts) | more)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith(where)


def test_an_adapter_that_is_shown_pictures_decides_nothing_with_others(client: TestClient) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "where"}], "ensemble": ["tiny", "eyed"]}
    refused = client.post("/v1/chat/completions", json=asked)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "ensemble"
