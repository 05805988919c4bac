"""The engine's process as its clients see it: the real `openai` package, unmodified, over loopback."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from jsonschema import Draft202012Validator

from moatelier.settings import settings
from modalities import pull
from modalities.text.template import answer_text, encode_row, render
from serving.engine import Sampling, TextEngine
from serving.pool import Pool, create_app
from tests import fakes
from tests.serving.conftest import SYSTEM, seal_adapter

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
ASK: list[Any] = [{"role": "user", "content": "where is my parcel"}]
BAD_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}
WITH_SYSTEM: list[Any] = [{"role": "system", "content": SYSTEM}, *ASK]


@dataclass
class Engine:
    """A running engine process with the adapter `loud` loaded, and an engine of ours to compare it with."""

    url: str
    process: subprocess.Popen[bytes]
    client: openai.OpenAI
    reference: TextEngine
    bundles: dict[str, Path]

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, trust_env=False).json()

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, trust_env=False, timeout=60)

    def idle_within(self, seconds: float) -> bool:
        """The engine stops working for anybody within this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.get("/healthz")["busy"] == 0:
                return True
            time.sleep(0.05)
        return False


def start(environment: dict[str, str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", "serving.pool"], env=os.environ | environment)
    for _ in range(1200):
        with closing(socket.socket()) as probe:
            if process.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise AssertionError("the engine did not start")


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A data directory with the tiny base pulled, as environment variables."""
    folder = tmp_path_factory.mktemp("engine")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "MOATELIER_HOME": str(folder / "home"),
        "MOATELIER_CACHE": str(folder / "cache"),
        "MOATELIER_CATALOGUE": str(fakes.tiny_catalogue(folder / "catalogue.yaml", tiny_folder)),
        "MOATELIER_BASE": "tiny",
        "MOATELIER_ENGINE_PORT": str(port),
        "MOATELIER_PRECISION": "fp32",  # where bf16 is the faster one, the engine's process would take that
        "MOATELIER_THREADS": "1",
    }
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        pull.pull("tiny")
        yield environment
    settings.cache_clear()


@pytest.fixture(scope="module")
def engine(place: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    port, scratch = int(place["MOATELIER_ENGINE_PORT"]), tmp_path_factory.mktemp("adapters")
    reference = TextEngine("tiny", "fp32")
    bundles = {name: seal_adapter("tiny", scratch, name, seed=seed) for seed, name in enumerate(("loud", "other"))}
    bundles["zero"] = seal_adapter("tiny", scratch, "zero", scale=0.0)
    reference.load_adapter("loud", bundles["loud"])
    process, url = start(place, port), f"http://127.0.0.1:{port}"
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
    try:
        engine = Engine(url, process, client, reference, bundles)
        assert engine.get("/healthz") == {"status": "ok", "base": "tiny", "loaded": False, "busy": 0}
        loaded = engine.post("/v1/load_lora_adapter", {"lora_name": "loud", "lora_path": str(bundles["loud"])})
        assert loaded.status_code == 200, loaded.text
        yield engine
    finally:
        client.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("model", ["tiny", "loud"])
def test_a_whole_answer(engine: Engine, model: str) -> None:
    answer = engine.client.chat.completions.create(model=model, messages=WITH_SYSTEM, max_tokens=12)
    adapter = None if model == "tiny" else model
    expected = engine.reference.generate([WITH_SYSTEM], adapter=adapter, sampling=Sampling(12))[0]
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == expected.completion_tokens
    assert answer.usage.total_tokens == expected.prompt_tokens + expected.completion_tokens
    assert (answer.model, answer.object) == (model, "chat.completion")
    assert answer.system_fingerprint
    assert answer.id.startswith("chatcmpl-")


def test_the_adapter_adds_its_system_message(engine: Engine) -> None:
    create = engine.client.chat.completions.create
    bare, full = (create(model="loud", messages=turns, max_tokens=8) for turns in (ASK, WITH_SYSTEM))
    assert bare.choices == full.choices
    assert bare.usage == full.usage


@pytest.mark.parametrize("model", ["tiny", "loud"])
def test_a_stream_is_the_same_answer(engine: Engine, model: str) -> None:
    whole = engine.client.chat.completions.create(model=model, messages=ASK, max_tokens=20)
    chunks = list(
        engine.client.chat.completions.create(
            model=model, messages=ASK, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    *body, last = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in body if chunk.choices[0].finish_reason] == ["length"]
    assert (last.choices, last.usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in body)
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_bytes_of_a_stream(engine: Engine) -> None:
    body = {"model": "loud", "messages": ASK, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", engine.url + "/v1/chat/completions", json=body, trust_env=False, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    for line in lines[:-2]:
        chunk = json.loads(line.removeprefix("data: "))
        assert chunk["object"] == "chat.completion.chunk"
        assert "usage" not in chunk


def test_options_are_honoured(engine: Engine) -> None:
    create = engine.client.chat.completions.create
    free = create(model="loud", messages=ASK, max_completion_tokens=20)
    text = free.choices[0].message.content or ""
    cut = create(model="loud", messages=ASK, max_tokens=20, stop=text[5:7])
    assert cut.choices[0].message.content == text[: text.index(text[5:7])]
    assert cut.choices[0].finish_reason == "stop"
    drawn = [create(model="loud", messages=ASK, max_tokens=20, temperature=1.0, seed=seed, n=2) for seed in (1, 1, 9)]
    assert drawn[0].choices == drawn[1].choices
    assert drawn[0].choices != drawn[2].choices
    assert [choice.index for choice in drawn[0].choices] == [0, 1]
    assert drawn[0].choices[0].message != drawn[0].choices[1].message
    assert drawn[0].usage and drawn[0].usage.completion_tokens == 40
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    assert create(model="loud", messages=parts, max_tokens=20).choices == free.choices
    assert create(model="loud", messages=ASK, max_tokens=20, temperature=0, logprobs=False).choices == free.choices


SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["parcel", "refund"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
    },
    "required": ["intent", "days", "words"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3, "n": 3}, {"temperature": 2.0, "top_k": 9}])
def test_answers_satisfy_a_schema(engine: Engine, options: dict[str, Any]) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "case", "schema": SCHEMA, "strict": True}}
    extra = {"extra_body": {"top_k": options.pop("top_k")}} if "top_k" in options else {}
    fields: dict[str, Any] = {"model": "loud", "messages": ASK, "max_tokens": 200, "response_format": wanted}
    answer = engine.client.chat.completions.create(**fields, **options, **extra)
    assert len(answer.choices) == options.get("n", 1)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        Draft202012Validator(SCHEMA).validate(json.loads(choice.message.content or ""))
    if "temperature" not in options or "seed" in options:
        texts = [""] * len(answer.choices)
        for chunk in engine.client.chat.completions.create(**fields, **options, **extra, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == [choice.message.content for choice in answer.choices]


def test_log_probabilities_are_those_of_the_models_own_forward_pass(engine: Engine) -> None:
    create, options = engine.client.chat.completions.create, {"max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    fields: dict[str, Any] = {"model": "loud", "messages": WITH_SYSTEM} | options
    answer = create(**fields).choices[0]
    assert answer.logprobs and answer.logprobs.content
    expected = engine.reference.generate([WITH_SYSTEM], adapter="loud", sampling=Sampling(12))[0]
    assert len(answer.logprobs.content) == len(expected.ids) == 12
    prompt = render(engine.reference.base.tokenizer, WITH_SYSTEM, True)
    logits = engine.reference.logits([*prompt, *expected.ids], adapter="loud")
    known = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    for told, token, row in zip(answer.logprobs.content, expected.ids, known, strict=True):
        assert told.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [top.logprob for top in told.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert told.top_logprobs[0].bytes == told.bytes, "a greedy answer takes the likeliest"
    said = b"".join(bytes(told.bytes or []) for told in answer.logprobs.content)
    assert said.decode(errors="replace") == answer.message.content
    streamed = [
        told
        for chunk in create(**fields, stream=True)
        if chunk.choices[0].logprobs
        for told in chunk.choices[0].logprobs.content or []
    ]
    assert [told.model_dump() for told in streamed] == [told.model_dump() for told in answer.logprobs.content]


def test_log_probabilities_of_the_prompt(engine: Engine) -> None:
    """As vLLM tells them, for scoring; and refused for streams, which have no place for them."""
    body = {"model": "loud", "messages": WITH_SYSTEM, "max_tokens": 1, "prompt_logprobs": 2}
    answer = engine.post("/v1/chat/completions", body).json()
    ids = render(engine.reference.base.tokenizer, WITH_SYSTEM, True)
    known = engine.reference.logits(ids, adapter="loud").log_softmax(-1)
    first, *told = answer["prompt_logprobs"]
    assert first is None and len(told) == len(ids) - 1
    for row, token, entry in zip(known, ids[1:], told, strict=False):
        assert entry[str(token)]["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        assert max(one["logprob"] for one in entry.values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert 2 <= len(entry) <= 3
    assert answer["choices"][0]["logprobs"] is None
    refused = engine.post("/v1/chat/completions", body | {"stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt_logprobs")


def test_labels_of_texts_are_told_with_their_probabilities(engine: Engine) -> None:
    texts = ["where is my parcel", "my money back please", "where is my parcel"]
    asked = {"model": "loud", "input": [texts[0], {"type": "text", "text": texts[1]}, texts[2]]}
    body = engine.post("/v1/classify", asked).json()
    reference, base = engine.reference, engine.reference.base
    for told, text in zip(body["data"], texts, strict=True):
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        chances = {}
        for label in ("parcel", "refund"):
            row = encode_row(base.tokenizer, [*turns, {"role": "assistant", "content": label}], base.stop_ids)
            known = reference.logits(row.ids, adapter="loud").log_softmax(-1)
            pairs = zip(known, row.ids[1:], row.trained[1:], strict=False)
            chances[label] = sum(float(logprobs[token]) for logprobs, token, trained in pairs if trained)
        expected = torch.tensor([*chances.values()], dtype=torch.float64).softmax(0).tolist()
        found = dict(zip(told["labels"], told["probs"], strict=True))
        assert found == pytest.approx(dict(zip(chances, expected, strict=True)), abs=1e-4)
        assert told["label"] == told["labels"][0] == max(found, key=lambda label: found[label])
    assert [told["index"] for told in body["data"]] == [0, 1, 2] and body["data"][0]["probs"] == body["data"][2][
        "probs"
    ]
    assert body["model"] == "loud" and body["usage"]["prompt_tokens"] > 0
    assert engine.get("/healthz")["busy"] == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "tiny"}, "model"),
        ({"model": "nobody"}, "model"),
        ({"input": []}, "input"),
        ({"input": ["x", " "]}, "input[1]"),
        ({"input": ["x", IMAGE]}, "input[1]"),
        ({"input": ["x", "Zq" * 600]}, "messages of prompt 1"),
        ({"labels": ["parcel", "refund"]}, "labels"),
    ],
)
def test_labels_that_cannot_be_told_are_refused(engine: Engine, change: dict[str, Any], param: str) -> None:
    refused = engine.post("/v1/classify", {"model": "loud", "input": "x"} | change)
    assert refused.status_code in (400, 404), refused.text
    assert refused.json()["error"]["param"] == param
    assert engine.idle_within(2)


def test_several_models_choose_each_token_together(engine: Engine) -> None:
    body = {"model": "tiny", "messages": WITH_SYSTEM, "max_tokens": 8}
    together = engine.post("/v1/chat/completions", body | {"ensemble": ["tiny", "loud"]}).json()
    ids = render(engine.reference.base.tokenizer, WITH_SYSTEM, True)
    said: list[int] = []
    for _ in range(8):
        both = [engine.reference.logits([*ids, *said], adapter=name)[-1].log_softmax(-1) for name in (None, "loud")]
        said.append(int((both[0] + both[1]).argmax()))
    assert together["choices"][0]["message"]["content"] == answer_text(engine.reference.base.tokenizer, said)
    for wrong in ({"ensemble": ["tiny", "nobody"]}, {"model": "nobody", "ensemble": ["tiny", "loud"], "n": 4}):
        missing = engine.post("/v1/chat/completions", body | wrong)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert engine.get("/healthz")["busy"] == 0, "a request that was refused is being answered"


def test_a_deadline_that_cannot_be_kept_is_told(engine: Engine) -> None:
    late = engine.post(
        "/v1/chat/completions", {"model": "tiny", "messages": ASK, "max_tokens": 480, "deadline_s": 0.02}
    )
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_health_tells_what_the_engine_holds(engine: Engine) -> None:
    engine.client.chat.completions.create(model="loud", messages=WITH_SYSTEM, max_tokens=2)
    before = engine.get("/healthz")
    engine.client.chat.completions.create(model="loud", messages=WITH_SYSTEM, max_tokens=2)
    after = engine.get("/healthz")
    assert after["block_hits"] > before["block_hits"] and 0 < after["memory_used"] <= after["memory_limit"]
    assert after["prompt_work"] - before["prompt_work"] < 16 * 6, "the prompt was computed again"
    assert (after["running"], after["waiting"]) == (0, 0)


def test_streamed_choices(engine: Engine) -> None:
    options: dict[str, Any] = {"model": "loud", "messages": ASK, "max_tokens": 9, "temperature": 1.0, "seed": 4, "n": 3}
    whole = engine.client.chat.completions.create(**options)
    texts = ["", "", ""]
    for chunk in engine.client.chat.completions.create(**options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_models(engine: Engine) -> None:
    models = {model.id: model for model in engine.client.models.list()}
    assert list(models) == ["tiny", "loud"]
    assert models["tiny"].model_dump()["parent"] is None
    assert models["loud"].model_dump()["parent"] == "tiny"
    assert models["loud"].model_dump()["root"] == engine.bundles["loud"].name
    assert engine.client.models.retrieve("loud") == models["loud"]
    with pytest.raises(openai.NotFoundError):
        engine.client.models.retrieve("ft:tiny:nobody:12345678/x")


def test_adapters_come_and_go(engine: Engine) -> None:
    name, load = "suffix@abc:1/2", {"lora_name": "suffix@abc:1/2", "lora_path": str(engine.bundles["other"])}
    for _ in range(2):
        assert engine.post("/v1/load_lora_adapter", load).status_code == 200
    assert engine.client.models.retrieve(name).id == name
    answers = [
        engine.client.chat.completions.create(model=model, messages=ASK, max_tokens=9).choices[0].message.content
        for model in ("tiny", "loud", name)
    ]
    assert len(set(answers)) == 3
    clash = engine.post("/v1/load_lora_adapter", load | {"lora_path": str(engine.bundles["loud"])})
    assert (clash.status_code, clash.json()["error"]["code"]) == (400, "conflict")
    assert engine.post("/v1/unload_lora_adapter", {"lora_name": name}).status_code == 200
    assert engine.post("/v1/unload_lora_adapter", {"lora_name": name}).status_code == 404
    with pytest.raises(openai.NotFoundError):
        engine.client.chat.completions.create(model=name, messages=ASK)


@pytest.mark.parametrize(
    ("path", "status", "code"), [("/nowhere", 404, "not_found"), ("zero", 409, "integrity_error"), ("", 404, None)]
)
def test_bundles_that_cannot_be_loaded(engine: Engine, path: str, status: int, code: str | None) -> None:
    bundle = str(engine.bundles.get(path, path))
    answer = engine.post("/v1/load_lora_adapter", {"lora_name": "bad", "lora_path": bundle})
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["error"]["code"] == code
    base = engine.post("/v1/load_lora_adapter", {"lora_name": "tiny", "lora_path": str(engine.bundles["other"])})
    assert base.status_code == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"model": None}, "model"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0]",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}, {"role": "system", "content": "b"}] * 200}, None),
        ({"temperature": 5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stop": [""]}, "stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"ensemble": ["loud"]}, "ensemble"),
        ({"response_format": {"type": "wizard"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, None),
        ({"response_format": BAD_FORMAT}, "response_format"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"messages": [{"role": "user", "content": "Zq" * 600}]}, "messages of prompt 0"),
        ({"messages": [{"role": "user", "content": "Zq" * 60_000}]}, "messages of prompt 0"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_said_before_the_first_byte(
    engine: Engine, change: dict[str, Any], param: str | None, stream: bool
) -> None:
    answer = engine.post("/v1/chat/completions", {"model": "loud", "messages": ASK, "stream": stream} | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    assert error["message"]


def test_half_a_character_is_the_clients_fault(engine: Engine) -> None:
    for body in (
        '{"model": "loud", "messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    ):
        answer = httpx.post(engine.url + "/v1/chat/completions", content=body, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_errors_of_http_have_the_envelope_too(engine: Engine) -> None:
    for answer, status in (
        (engine.post("/v1/nothing", {}), 404),
        (httpx.get(engine.url + "/v1/chat/completions", trust_env=False), 405),
        (httpx.post(engine.url + "/v1/chat/completions", content=b"{", trust_env=False), 400),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_model_is_not_found(engine: Engine) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        engine.client.chat.completions.create(model="nobody", messages=ASK)
    assert missing.value.code == "not_found"
    assert "nobody" in missing.value.message


def test_a_short_answer_does_not_wait_for_a_long_one(engine: Engine) -> None:
    long = engine.client.chat.completions.create(model="tiny", messages=ASK, max_tokens=400, stream=True)
    next(iter(long))
    short = engine.client.chat.completions.create(model="loud", messages=ASK, max_tokens=2)
    assert short.usage and short.usage.completion_tokens == 2
    assert engine.get("/healthz")["busy"] == 1, "the long answer was over before the short one"
    long.close()


def test_concurrent_answers_are_those_of_quiet_times(engine: Engine) -> None:
    models, answers = ["tiny", "loud"] * 4, {}
    create = engine.client.chat.completions.create

    def run(number: int) -> None:
        answer = create(model=models[number], messages=ASK, max_tokens=10)
        answers[number] = answer.choices[0].message.content

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    quiet = [create(model=model, messages=ASK, max_tokens=10).choices[0].message.content for model in models]
    assert [answers[number] for number in range(8)] == quiet


@pytest.mark.parametrize("stream", [True, False])
def test_generation_stops_when_the_client_hangs_up(engine: Engine, stream: bool) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 480, "stream": stream, "n": 8}
    if stream:
        with httpx.stream(
            "POST", engine.url + "/v1/chat/completions", json=body, trust_env=False, timeout=60
        ) as answer:
            next(answer.iter_bytes())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(engine.url + "/v1/chat/completions", json=body, trust_env=False, timeout=0.3)
    begin = time.monotonic()
    assert engine.idle_within(30)
    stopped = time.monotonic() - begin
    begin = time.monotonic()
    engine.post("/v1/chat/completions", body | {"stream": False})
    assert stopped < (time.monotonic() - begin) / 2, "it went on to the end for nobody"


def test_a_base_that_was_not_pulled_is_said_so(home: Path) -> None:
    transport = httpx.ASGITransport(create_app(Pool("smollm2-135m-instruct")))
    body = {"model": "smollm2-135m-instruct", "messages": ASK}

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.post("/v1/chat/completions", json=body)

    answer = asyncio.run(ask())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_unavailable"
    assert "moatelier models pull" in answer.json()["error"]["message"]


def test_it_waits_at_its_fault_point_and_still_ends_in_time(engine: Engine, place: dict[str, str]) -> None:
    """Also the last test of this engine: the process must go even while its generation thread is stuck."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(place | {"MOATELIER_ENGINE_PORT": str(port), "MOATELIER_FAULT": "engine.answering"}, port)
    try:
        marker = Path(place["MOATELIER_HOME"]) / "faults" / "engine.answering"
        stuck = threading.Thread(target=_ignore_errors, args=(f"http://127.0.0.1:{port}",))
        stuck.start()
        for _ in range(600):
            if marker.exists() and marker.read_text():
                break
            time.sleep(0.1)
        assert int(marker.read_text()) == process.pid
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - begin < 3
        stuck.join()
    finally:
        process.kill()
        process.wait()


def _ignore_errors(url: str) -> None:
    try:
        httpx.post(url + "/v1/chat/completions", json={"model": "tiny", "messages": ASK}, trust_env=False, timeout=60)
    except httpx.HTTPError:
        pass
