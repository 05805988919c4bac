"""Pictures and recordings through the whole API and the engine's own server, by engines that say what they are told."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api.app import create_app
from moatelier.errors import DataError
from modalities.bundle import read_manifest
from serving.pool import Pool
from serving.pool import create_app as create_engine
from store import adapters, keys
from tests.api.running import running
from tests.deciding import let_through
from tests.sensed import Ears, audio_part, image_part, picture, recording, registered, senses
from tests.serving.conftest import seal_adapter

EYES, EARS = "efficientnet-lite0", "whisper-tiny.en"


@pytest.fixture
def http(tiny: str, home: Path) -> Iterator[httpx.Client]:
    key = keys.ensure_admin()
    with running(create_engine(Pool(tiny, senses()))) as engine, running(create_app(engine)) as url:
        with httpx.Client(base_url=url, headers={"x-api-key": key}, timeout=20) as client:
            yield client


@pytest.fixture
def client(http: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key=http.headers["x-api-key"], max_retries=0) as made:
        yield made


def test_chat_about_a_picture(client: openai.OpenAI) -> None:
    made = registered("vision", EYES, "classification", "colours")
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}, image_part("red")]}]
    answer = client.chat.completions.create(model=made.model_id, messages=asked, logprobs=True, top_logprobs=2)
    assert answer.choices[0].message.content == "red" and answer.model == made.model_id
    told = answer.choices[0].logprobs
    assert told and told.content and [other.token for other in told.content[0].top_logprobs] == ["red", "blue"]


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("json", '{"text"'),
        ("text", "2 seconds\n"),
        ("srt", "1\n00:00:00,000"),
        ("vtt", "WEBVTT\n"),
        ("verbose_json", "{"),
    ],
)
def test_transcripts_in_five_forms(http: httpx.Client, form: str, start: str) -> None:
    made = registered("audio", EARS, "transcription", "clock")
    answer = http.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", recording(2))},
        data={"model": made.model_id, "response_format": form},
    )
    assert answer.status_code == 200 and answer.text.startswith(start) and "2 seconds" in answer.text


def test_a_transcript_as_a_stream_and_by_the_usual_name_of_the_base(client: openai.OpenAI) -> None:
    with client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording(2.5)), stream=True) as events:
        found = list(events)
    assert [event.type for event in found] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert [event.delta for event in found if event.type == "transcript.text.delta"] == [
        "1 seconds",
        " 1 seconds",
        " 0.5 seconds",
    ]
    assert found[-1].type == "transcript.text.done" and found[-1].text == "1 seconds 1 seconds 0.5 seconds"


class Slow:
    """Ears that need a while for each window, and break at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, breaks_at: int = 1000) -> None:
        self.heard = 0
        hear = Ears.transcribe

        def transcribe(*asked: Any) -> list[Any]:
            self.heard += 1
            if self.heard >= breaks_at:
                raise DataError("The ears are blocked.", where="audio")
            time.sleep(0.05)
            return hear(*asked)

        monkeypatch.setattr(Ears, "transcribe", transcribe)


def test_a_stream_tells_each_window_when_it_is_heard_and_ends_with_its_reader(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    with client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording(60)), stream=True) as events:
        assert next(iter(events)).type == "transcript.text.delta" and slow.heard < 10
    time.sleep(0.3)
    heard = slow.heard
    assert heard < 30
    time.sleep(0.3)
    assert slow.heard == heard


def test_a_reader_who_leaves_before_the_first_word_leaves_no_work(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.sensed.said", lambda seconds: "")
    slow = Slow(monkeypatch)
    form = {"model": "whisper-1", "stream": "true"}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/audio/transcriptions", files={"file": ("a.wav", recording(60))}, data=form, timeout=0.3)
    time.sleep(0.3)
    heard = slow.heard
    time.sleep(0.3)
    assert slow.heard == heard < 30


def test_a_stream_that_breaks_is_an_error_and_one_that_cannot_begin_is_refused(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow(monkeypatch, breaks_at=3)
    with client.audio.transcriptions.create(model="whisper-1", file=("a.wav", recording(9)), stream=True) as events:
        with pytest.raises(openai.APIError, match="ears are blocked"):
            list(events)
    labels = registered("audio", EARS, "classification", "moods").model_id
    for model, data in ((labels, recording(1)), ("whisper-1", b"a text"), ("whisper-1", recording(1))):
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model=model, file=("a.wav", data), stream=True)


def test_refusals_are_typed(http: httpx.Client) -> None:
    made = registered("audio", EARS, "transcription", "clock")

    def refused(**fields: Any) -> dict[str, Any]:
        form = {"model": made.model_id} | fields
        data = form.pop("data", recording(1))
        answer = http.post("/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data=form)
        assert 400 <= answer.status_code < 500, answer.text
        return dict(answer.json()["error"])

    assert refused(model="nobody")["code"] == "not_found"
    assert refused(model=EYES)["param"] == "model"
    assert refused(response_format="xml")["param"] == "response_format"
    assert refused(**{"timestamp_granularities[]": "hour", "response_format": "verbose_json"})["param"].startswith(
        "time"
    )
    assert refused(**{"timestamp_granularities[]": "word"})["param"].startswith("time")
    assert refused(data=b"a text file that is called wav")["code"] == "data_error"
    assert refused(data=b"")["code"] == "data_error"
    missing = http.post("/v1/audio/transcriptions", data={"model": made.model_id})
    assert missing.status_code in (400, 422) and missing.json()["error"]["param"] == "file"


def test_classify_and_embed(http: httpx.Client) -> None:
    made = registered("vision", EYES, "classification", "colours")
    answer = http.post("/v1/classify", json={"model": made.model_id, "input": [picture("blue")]}).json()
    assert answer["data"][0]["label"] == "blue" and answer["model"] == made.model_id
    refused = http.post("/v1/classify", json={"model": "smollm2-135m-instruct", "input": "hello"})
    assert refused.status_code in (400, 404)
    embedded = http.post("/v1/embeddings", json={"model": EYES, "input": picture("blue"), "encoding_format": "float"})
    assert embedded.json()["data"][0]["embedding"] == [0.5] * 4


def test_texts_are_classified_by_who_was_tuned_on_them(http: httpx.Client, tiny: str, tmp_path: Path) -> None:
    manifest = read_manifest(seal_adapter(tiny, tmp_path, "mail", system=""))
    made = adapters.register("default", manifest, "task-1")
    answer = http.post("/v1/classify", json={"model": made.model_id, "input": ["a parcel", "a refund"]}).json()
    assert answer["model"] == made.model_id and [each["index"] for each in answer["data"]] == [0, 1]
    for each in answer["data"]:
        assert sorted(each["labels"]) == ["parcel", "refund"] and sum(each["probs"]) == pytest.approx(1)
    refused = http.post("/v1/classify", json={"model": made.model_id, "input": picture("red")})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "input[0]"


def test_classes_are_told_by_their_names_by_who_finds_pictures(http: httpx.Client) -> None:
    finder = registered("vision", EYES, "retrieval", "finder")
    asked = {"model": finder.model_id, "input": picture("blue"), "labels": ["green", "blue"]}
    answer = http.post("/v1/classify", json=asked).json()
    assert answer["model"] == finder.model_id and answer["data"][0]["labels"] == ["blue", "green"]
    trained = registered("vision", EYES, "classification", "colours")
    for model in (trained.model_id, EYES):
        refused = http.post("/v1/classify", json=asked | {"model": model})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_request", refused.text


def test_pictures_and_texts_lie_in_the_space_of_an_adapter_that_finds_them(client: openai.OpenAI) -> None:
    made = registered("vision", EYES, "retrieval", "finder")
    found = client.embeddings.create(model=made.model_id, input=["a red thing", picture("red")])
    assert found.model == made.model_id and [each.embedding[0] for each in found.data] == [11.0, 0.5]
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}, image_part("red")]}]
    with pytest.raises(openai.BadRequestError, match="finds pictures by words"):
        client.chat.completions.create(model=made.model_id, messages=asked)


def test_who_finds_pictures_proposes_nothing(http: httpx.Client) -> None:
    eyes = registered("vision", EYES, "classification", "colours")
    finder = registered("vision", EYES, "retrieval", "finder")
    members = [{"adapter": eyes.digest}, {"adapter": finder.digest}]
    recipe = {"name": "odd", "layers": [{"proposers": members}], "aggregator": {"kind": "vote"}}
    refused = http.post("/v1/moa", json={"yaml": json.dumps(recipe)})
    assert refused.status_code == 400 and "answers nothing" in refused.json()["error"]["message"]


def test_a_recipe_compares_what_is_shown_with_what_is_said(http: httpx.Client) -> None:
    eyes = registered("vision", EYES, "classification", "colours")
    ears = registered("audio", EARS, "classification", "moods")
    proposers = [{"adapter": eyes.digest}, {"adapter": ears.digest}]
    recipe = {"name": "same", "layers": [{"proposers": proposers}], "aggregator": {"kind": "compare"}}
    added = http.post("/v1/moa", json={"yaml": json.dumps(recipe)})
    assert added.status_code == 200, added.text
    let_through("same", added.json()["digest"])

    def ask(colour: str) -> dict[str, Any]:
        words = {"type": "text", "text": "Is what is said what is shown?"}
        content = [words, image_part(colour), audio_part(1)]
        body = {"model": "moa/same", "messages": [{"role": "user", "content": content}]}
        return dict(http.post("/v1/chat/completions", json=body).json())

    assert ask("red")["choices"][0]["message"]["content"] == "yes"
    answer = ask("blue")
    assert answer["choices"][0]["message"]["content"] == "no"
    assert [call["model"] for call in answer["moatelier"]["calls"]] == [eyes.model_id, ears.model_id]


def test_who_needs_words_cannot_be_an_adapter_for_pictures(http: httpx.Client) -> None:
    eyes = registered("vision", EYES, "classification", "colours")
    members = [{"adapter": eyes.digest}, {"base": True}]
    for aggregator in ({"kind": "ensemble"}, {"kind": "synthesis", "adapter": eyes.digest}):
        recipe = {"name": "odd", "layers": [{"proposers": members}], "aggregator": aggregator}
        refused = http.post("/v1/moa", json={"yaml": json.dumps(recipe)})
        assert refused.status_code == 400 and EYES in refused.json()["error"]["message"]
