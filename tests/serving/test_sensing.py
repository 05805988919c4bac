"""The engine's routes for pictures and recordings, with engines that say what they are told to."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from fastapi.testclient import TestClient
from PIL import Image

from moatelier.contracts import AdapterManifest, Kind, TrainSpec
from moatelier.errors import InvalidRequest
from modalities import bundle
from modalities.audio.transcribing import Options, Segment, Transcript
from serving.pool import Pool, create_app
from serving.senses import Sense, Senses


@dataclass
class Eyes:
    """Knows red from blue."""

    base: str
    adapters: dict[str, AdapterManifest] = field(default_factory=dict)
    batches: list[list[str | None]] = field(default_factory=list)

    def load_adapter(self, name: str, folder: Path, pinned: bool = False) -> AdapterManifest:
        self.adapters[name] = bundle.read_manifest(folder)
        return self.adapters[name]

    def unload_adapter(self, name: str) -> None:
        del self.adapters[name]

    def classify(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> list[list[tuple[str, float]]]:
        if None in adapters:
            raise InvalidRequest("The base has no labels.", where="model", remedy="Name an adapter.")
        self.batches.append(list(adapters))
        reds = [image.resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]  # type: ignore[index]
        return [sorted([("red", red), ("blue", 1 - red)], key=lambda pair: -pair[1]) for red in reds]

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> Any:
        return np.ones((len(images), 4), np.float32) / 2


@dataclass
class Ears(Eyes):
    """Hears how many seconds there are."""

    def classify(self, images: Sequence[Any], adapters: Sequence[str | None]) -> list[list[tuple[str, float]]]:
        return [[("red", 0.75), ("blue", 0.25)] for _ in images]

    def transcribe(self, sounds: Sequence[Any], adapters: Sequence[str | None], options: Options) -> list[Transcript]:
        self.batches.append(list(adapters))
        return [_transcript(len(sound) / 16_000, options) for sound in sounds]


def _transcript(seconds: float, options: Options) -> Transcript:
    text = f"{seconds:g} seconds"
    segment = Segment(0.0, seconds, text, (5, 6, 7), -0.25, 0.01)
    return Transcript(text, (segment,), options.language, seconds)


def sealed(modality: str, base: str, kind: Kind, suffix: str) -> Path:
    spec = TrainSpec(method="x", base=base, dataset="d" * 64, suffix=suffix)
    digest = bundle.seal(
        {"adapter_model.safetensors": suffix.encode(), "adapter_config.json": b"{}"},
        base=base,
        base_digest="b" * 64,
        modality=modality,
        kind=kind,
        suffix=suffix,
        system="",
        template_digest="t" * 64,
        stop_ids=(),
        labels=("red", "blue") if kind == "classification" else (),
        first_layer=0,
        dataset="d" * 64,
        licence="CC0-1.0",
        spec=spec,
        versions={},
    )
    return bundle.bundle_folder(digest)


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def recording(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * seconds), np.float32), 16_000, format="WAV")
    return file.getvalue()


def image_part(colour: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture(colour)}}


def audio_part(seconds: float) -> dict[str, Any]:
    return {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(recording(seconds)).decode(), "format": "wav"},
    }


@pytest.fixture
def client(tiny: str) -> TestClient:
    engines = {"vision": Eyes, "audio": Ears}
    senses = Senses(lambda modality, base: Sense(modality, base, engines[modality]))
    app = TestClient(create_app(Pool(tiny, senses)))
    for name, folder in {
        "colours": sealed("vision", "efficientnet-lite0", "classification", "colours"),
        "clock": sealed("audio", "whisper-tiny.en", "transcription", "clock"),
        "moods": sealed("audio", "whisper-tiny.en", "classification", "moods"),
    }.items():
        loaded = app.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
        assert loaded.status_code == 200, loaded.text
    return app


def ask(client: TestClient, model: str, *content: Any, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": list(content)}], **more}
    return client.post("/v1/chat/completions", json=body)


WORDS = {"type": "text", "text": "What is it?"}


def test_chat_tells_the_label_of_a_picture_with_its_probability(client: TestClient) -> None:
    body = ask(client, "colours", WORDS, image_part("red"), logprobs=True, top_logprobs=2).json()
    [choice] = body["choices"]
    assert choice["message"]["content"] == "red" and choice["finish_reason"] == "stop"
    [told] = choice["logprobs"]["content"]
    assert told["token"] == "red" and told["logprob"] == pytest.approx(0.0)
    assert [other["token"] for other in told["top_logprobs"]] == ["red", "blue"]
    assert body["usage"]["completion_tokens"] == 1


def test_chat_tells_what_a_recording_says(client: TestClient) -> None:
    body = ask(client, "clock", audio_part(2), WORDS, image_part("red"), logprobs=True).json()
    assert body["choices"][0]["message"]["content"] == "2 seconds"
    assert body["choices"][0]["logprobs"]["content"][0]["logprob"] == pytest.approx(-0.25 * 4 / 4)


def test_a_stream_says_the_same(client: TestClient) -> None:
    streamed = ask(client, "colours", image_part("blue"), stream=True, stream_options={"include_usage": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert lines[-1] == "[DONE]" and '"content":"blue"' in streamed.text and '"completion_tokens":1' in lines[-2]


@pytest.mark.parametrize(
    ("model", "content", "more", "where"),
    [
        ("colours", [WORDS], {}, "messages"),
        ("colours", [audio_part(1)], {}, "messages"),
        ("clock", [image_part("red")], {}, "messages"),
        ("colours", [{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}], {}, "messages[0]"),
        ("colours", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], {}, "messages[0]"),
        ("colours", [image_part("red")], {"response_format": {"type": "json_object"}}, "response_format"),
        ("efficientnet-lite0", [image_part("red")], {}, "model"),
        ("nobody", [image_part("red")], {}, "model"),
    ],
)
def test_refuses_what_cannot_be_answered(client: TestClient, model: str, content: Any, more: Any, where: str) -> None:
    refused = ask(client, model, *content, **more)
    assert refused.status_code in (400, 404, 422), refused.text
    assert refused.json()["error"]["param"].startswith(where)


def test_artifacts_cannot_be_asked_for_from_outside(client: TestClient) -> None:
    refused = ask(client, "colours", {"type": "image", "artifact": "0" * 64})
    assert refused.status_code == 400 and "no parts of type 'image'" in refused.json()["error"]["message"]


def test_classify_tells_all_labels_best_first(client: TestClient) -> None:
    body = client.post("/v1/classify", json={"model": "colours", "input": [picture("red"), picture("blue")]}).json()
    assert [(each["index"], each["label"], each["num_classes"]) for each in body["data"]] == [
        (0, "red", 2),
        (1, "blue", 2),
    ]
    assert body["data"][1]["labels"] == ["blue", "red"] and body["data"][1]["probs"] == [1.0, 0.0]
    assert client.post("/v1/classify", json={"model": "moods", "input": audio_part(1)}).json()["data"][0]["label"]


def test_classify_refuses_texts_and_says_which(client: TestClient) -> None:
    refused = client.post("/v1/classify", json={"model": "colours", "input": [picture("red"), "hello"]})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "input[1]"


def test_transcriptions_tell_everything(client: TestClient) -> None:
    answer = client.post(
        "/v1/audio/transcriptions",
        files={"file": ("a.wav", recording(1.5))},
        data={"model": "clock", "language": "en", "timestamp_granularities[]": ["segment"]},
    )
    body = answer.json()
    assert (body["text"], body["language"], body["duration"]) == ("1.5 seconds", "en", 1.5)
    assert body["segments"][0]["avg_logprob"] == -0.25 and body["usage"]["seconds"] == 1.5


def test_transcriptions_refuse_labels_and_noise(client: TestClient) -> None:
    def refused(model: str, data: bytes, **more: str) -> dict[str, Any]:
        answer = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data={"model": model, **more})
        assert answer.status_code in (400, 404, 422), answer.text
        return dict(answer.json()["error"])

    assert refused("moods", recording(1))["param"] == "model"
    assert refused("colours", recording(1))["param"] == "messages"
    assert refused("clock", b"this is a text file")["param"] == "a.wav"
    assert refused("clock", recording(1), temperature="7")["param"] == "temperature"


def test_pictures_are_embedded(client: TestClient) -> None:
    asked = {"model": "efficientnet-lite0", "input": picture("red"), "encoding_format": "float"}
    assert client.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"] == [0.5] * 4
    assert client.post("/v1/embeddings", json=asked | {"model": "clock"}).status_code == 400


def test_models_list_who_is_on_which_base(client: TestClient) -> None:
    found = {model["id"]: model["parent"] for model in client.get("/v1/models").json()["data"]}
    assert found["colours"] == "efficientnet-lite0" and found["clock"] == "whisper-tiny.en"
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "colours"}).status_code == 200
    assert "colours" not in client.get("/v1/models").text


def test_the_openai_package_reads_it(client: TestClient) -> None:
    api = openai.OpenAI(api_key="k", base_url="http://testserver/v1", http_client=client)
    found = api.audio.transcriptions.create(model="clock", file=("a.wav", recording(1)), response_format="verbose_json")
    assert found.text == "1 seconds" and found.segments and found.segments[0].end == 1.0
