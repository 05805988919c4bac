"""The engine's routes for pictures and recordings, with engines that say what they are told to."""

from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from serving.pool import Pool, create_app
from tests.sensed import audio_part, image_part, picture, recording, sealed, senses


@pytest.fixture
def client(tiny: str) -> TestClient:
    app = TestClient(create_app(Pool(tiny, senses())))
    for name, folder in {
        "colours": sealed("vision", "efficientnet-lite0", "classification", "colours"),
        "clock": sealed("audio", "whisper-tiny.en", "transcription", "clock"),
        "finder": sealed("vision", "efficientnet-lite0", "retrieval", "finder"),
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


def test_classify_tells_classes_by_their_names(client: TestClient) -> None:
    asked = {"model": "finder", "input": [picture("red"), image_part("blue")], "labels": ["green", " blue ", "red"]}
    red, blue = client.post("/v1/classify", json=asked).json()["data"]
    assert (red["label"], red["labels"], red["num_classes"]) == ("red", ["red", "green", "blue"], 3)
    assert (blue["index"], blue["label"], blue["probs"]) == (1, "blue", [1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("model", "labels", "where"),
    [
        ("colours", ["red", "blue"], "labels"),
        ("moods", ["red", "blue"], "labels"),
        ("whisper-tiny.en", ["red", "blue"], "labels"),
        ("efficientnet-lite0", ["red", "blue"], "efficientnet-lite0"),
        ("finder", ["red"], "labels"),
        ("finder", [], "labels"),
        ("finder", ["red", " "], "labels[1]"),
        ("finder", ["red", "blue", "red "], "labels[2]"),
        ("finder", ["red", "b" * 201], "labels[1]"),
        ("finder", [f"class {n}" for n in range(1001)], "labels"),
        ("finder", ["red", 7], "labels.1"),
    ],
)
def test_classes_that_cannot_be_told_by_name_are_refused(
    client: TestClient, model: str, labels: Any, where: str
) -> None:
    medium = audio_part(1) if model in ("moods", "whisper-tiny.en") else picture("red")
    refused = client.post("/v1/classify", json={"model": model, "input": medium, "labels": labels})
    assert refused.status_code == 400, refused.text
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("invalid_request", where)


def test_classify_refuses_who_tells_words(client: TestClient) -> None:
    refused = client.post("/v1/classify", json={"model": "clock", "input": audio_part(1)})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"


def test_several_answers_are_asked_for_each(client: TestClient) -> None:
    body = ask(client, "clock", audio_part(2), n=3, temperature=0.5).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2] and body["usage"]["completion_tokens"] == 12


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


def test_pictures_and_texts_are_embedded_in_one_space_in_their_order(client: TestClient) -> None:
    mixed = ["a red thing", picture("red"), {"type": "text", "text": "two"}, image_part("blue")]
    asked = {"model": "finder", "input": mixed, "encoding_format": "float"}
    data = client.post("/v1/embeddings", json=asked).json()["data"]
    assert [each["index"] for each in data] == [0, 1, 2, 3]
    assert [each["embedding"][0] for each in data] == [11.0, 0.5, 3.0, 0.5]
    api = openai.OpenAI(api_key="k", base_url="http://testserver/v1", http_client=client)
    found = api.embeddings.create(model="finder", input=["a red thing", picture("red")])
    assert [each.embedding[0] for each in found.data] == [11.0, 0.5]


@pytest.mark.parametrize(
    ("model", "given", "where"),
    [
        ("efficientnet-lite0", "a red thing", "efficientnet-lite0"),
        ("colours", ["a red thing"], "efficientnet-lite0"),
        ("clock", "what is said", "input[0]"),
        ("finder", ["a red thing", audio_part(1)], "input[1]"),
        ("finder", [picture("red"), "  "], "input[1]"),
        ("finder", [], "input"),
        ("finder", [7], "messages[0]"),
    ],
)
def test_what_has_no_place_in_a_space_is_refused(client: TestClient, model: str, given: Any, where: str) -> None:
    refused = client.post("/v1/embeddings", json={"model": model, "input": given})
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith(where)


def test_who_finds_pictures_answers_nothing(client: TestClient) -> None:
    answers = [
        ask(client, "finder", WORDS, image_part("red")),
        ask(client, "finder", WORDS),
        client.post("/v1/classify", json={"model": "finder", "input": picture("red")}),
    ]
    for refused in answers:
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "model", refused.text
        assert "/v1/embeddings" in refused.json()["error"]["message"]


def test_models_list_who_is_on_which_base(client: TestClient) -> None:
    found = {model["id"]: model["parent"] for model in client.get("/v1/models").json()["data"]}
    assert found["colours"] == "efficientnet-lite0" and found["clock"] == "whisper-tiny.en"
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "colours"}).status_code == 200
    assert "colours" not in client.get("/v1/models").text


def test_the_openai_package_reads_it(client: TestClient) -> None:
    api = openai.OpenAI(api_key="k", base_url="http://testserver/v1", http_client=client)
    found = api.audio.transcriptions.create(model="clock", file=("a.wav", recording(1)), response_format="verbose_json")
    assert found.text == "1 seconds" and found.segments and found.segments[0].end == 1.0
