"""Chat completions through the unmodified openai client."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from api.app import create_app
from store import adapters, events
from tests.api.conftest import Service, make_adapter
from tests.api.fake_engine import BASE
from tests.api.running import running, wait_until


def ask(client: openai.OpenAI, model: str, text: str = "hello") -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""


def routes(project: str = "default") -> list[dict[str, str]]:
    return [event.body for event in events.read(project, stream="inference")]


def test_the_base_answers_without_loading_anything(client: openai.OpenAI, service: Service) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=BASE, messages=[{"role": "user", "content": "hello"}], seed=3
    )
    assert answer.parse().choices[0].message.content == f"{BASE}: hello"
    assert answer.parse().model == BASE
    assert "x-moatelier-adapter" not in answer.headers
    assert answer.headers["x-request-id"].startswith("req-")
    assert service.engine.loaded == {}
    assert service.engine.requests[0]["seed"] == 3


def test_what_is_asked_of_the_answer_reaches_the_engine(client: openai.OpenAI, service: Service) -> None:
    """Whether it can be honoured is the engine's to say."""
    wanted: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "stop": ["x"],
        "max_completion_tokens": 9,
    }
    asked: list[Any] = [{"role": "user", "content": "hello"}]
    extra = {"top_k": 5, "prompt_logprobs": 1}
    client.chat.completions.create(model=BASE, messages=asked, **wanted, user="me", extra_body=extra)
    assert wanted | extra | {"user": "default"} == {  # who takes turns with whom is not the client's to say
        name: value for name, value in service.engine.requests[0].items() if name not in ("model", "messages", "stream")
    }


def test_an_adapter_is_loaded_once_under_its_digest(client: openai.OpenAI, service: Service) -> None:
    record = make_adapter()
    for name in (record.model_id, record.digest):
        answer = client.chat.completions.with_raw_response.create(
            model=name, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.headers["x-moatelier-adapter"] == record.digest
        assert answer.parse().model == record.model_id
        assert answer.parse().system_fingerprint == f"fp_{record.digest[:24]}"
        assert answer.parse().choices[0].message.content == f"support@{record.digest}: hi"
    assert service.engine.loaded == {f"support@{record.digest}": str(adapters.bundle_path(record.digest))}
    assert service.engine.calls.count("POST /v1/load_lora_adapter") == 1
    assert "GET /v1/models" not in service.engine.calls


def test_an_alias_follows_its_digest_within_a_second(client: openai.OpenAI, service: Service) -> None:
    first, second = make_adapter(seed=1), make_adapter(seed=2)
    adapters.set_alias("default", "support", first.digest, fence=1, actor="test")
    assert ask(client, "support").startswith(f"support@{first.digest}")
    adapters.set_alias("default", "support", second.digest, fence=2, actor="test")
    wait_until(lambda: ask(client, "support").startswith(f"support@{second.digest}"), timeout_s=1.5)


def test_route_decisions_reach_the_event_log(client: openai.OpenAI) -> None:
    record = make_adapter()
    adapters.set_alias("default", "support", record.digest, fence=1, actor="test")
    ask(client, "support")
    ask(client, record.model_id)
    ask(client, BASE)
    list(client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "a b"}], stream=True))
    wait_until(lambda: len(routes()) == 4)
    assert [(route["reason"], route["chosen"]) for route in routes()] == [
        ("alias", record.digest),
        ("exact", record.digest),
        ("base", BASE),
        ("base", BASE),
    ]
    assert len({route["completion"] for route in routes()}) == 4


def test_a_stream_carries_public_names_and_usage(client: openai.OpenAI) -> None:
    record = make_adapter()
    stream = client.chat.completions.create(
        model=record.model_id,
        messages=[{"role": "user", "content": "wörter 🙂 here"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert stream.response.headers["x-moatelier-adapter"] == record.digest
    assert {chunk.model for chunk in chunks} == {record.model_id}
    assert {chunk.system_fingerprint for chunk in chunks} == {f"fp_{record.digest[:24]}"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == f"support@{record.digest}: wörter 🙂 here "
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 3


def test_a_stream_ends_with_done(http: httpx.Client) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], "stream": True}
    raw = http.post("/v1/chat/completions", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("said", "told"), [("break", "cannot be reached"), ("vanish", "broke off"), ("fail", "Out of memory")]
)
def test_an_answer_that_breaks_off_is_an_error_not_an_end(client: openai.OpenAI, said: str, told: str) -> None:
    stream = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": said}], stream=True)
    with pytest.raises(openai.APIError, match=told):
        list(stream)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_engine_forgetting_an_adapter_is_mended(client: openai.OpenAI, service: Service, streamed: bool) -> None:
    record = make_adapter()
    ask(client, record.model_id)
    service.engine.loaded.clear()  # as after a restart
    if streamed:
        stream = client.chat.completions.create(
            model=record.model_id, messages=[{"role": "user", "content": "again"}], stream=True
        )
        assert "again" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    else:
        assert "again" in ask(client, record.model_id, "again")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_that_was_started_again_fails_none_of_many(service: Service, streamed: bool) -> None:
    """One loads the adapter again while others have just been told that it is not there."""
    model = make_adapter().model_id
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": streamed}

    async def ask_all() -> list[int]:
        async with httpx.AsyncClient(base_url=service.url, headers=service.headers, timeout=20) as client:
            asking = [client.post("/v1/chat/completions", json=body) for _ in range(24)]
            return [answer.status_code for answer in await asyncio.gather(*asking)]

    for _ in range(5):
        service.engine.loaded.clear()
        assert asyncio.run(ask_all()) == [200] * 24


def test_an_engine_that_has_the_adapter_already_is_fine(client: openai.OpenAI, service: Service) -> None:
    record = make_adapter()
    service.engine.loaded[f"support@{record.digest}"] = "loaded before this process started"
    assert ask(client, record.model_id).endswith("hello")


def test_the_engines_refusal_is_passed_on(client: openai.OpenAI) -> None:
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "refuse"}], stream=streamed
            )
        assert "n is not supported" in caught.value.message
        assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_hangs_up_stops_the_engine(service: Service, streamed: bool) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "slow"}], "stream": streamed}
    with httpx.Client(base_url=service.url, headers=service.headers, timeout=1) as client:
        if streamed:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body)
    wait_until(lambda: service.engine.hung_up == 1)


def test_an_unknown_model_names_near_ones(client: openai.OpenAI) -> None:
    record = make_adapter()
    adapters.set_alias("default", "support", record.digest, fence=1, actor="test")
    with pytest.raises(openai.NotFoundError, match="support") as caught:
        ask(client, "suport")
    assert caught.value.code == "not_found"


def test_a_request_that_is_none(http: httpx.Client) -> None:
    for body, param in [
        ({}, "model"),
        ({"model": 3, "messages": []}, "model"),
        ({"model": BASE}, "messages"),
        ({"model": BASE, "messages": []}, "messages"),
        ({"model": BASE, "messages": "hello"}, "messages"),
        ({"model": BASE, "messages": [{"role": "user", "content": "x"}], "ensemble": [BASE, "a@b"]}, "ensemble"),
    ]:
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("model", [BASE, "moa/desk"])
@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "MODEL", "messages": [{"role": "user", "content": "\\ud83d half"}]}',
        b'{"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "MODEL", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "MODEL", "messages": \xff}',
    ],
    ids=["half a character", "no number", "deep", "no UTF-8"],
)
def test_what_json_cannot_hold_is_the_requests_fault(http: httpx.Client, raw: bytes, model: str) -> None:
    answer = http.post("/v1/chat/completions", content=raw.replace(b"MODEL", model.encode()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_whole_character_in_two_escapes_is_fine(http: httpx.Client) -> None:
    raw = f'{{"model": "{BASE}", "messages": [{{"role": "user", "content": "\\ud83d\\ude42"}}]}}'
    assert http.post("/v1/chat/completions", content=raw).json()["choices"][0]["message"]["content"].endswith("🙂")


def test_a_dead_engine_asks_to_come_back(service: Service) -> None:
    with running(create_app("http://127.0.0.1:9")) as url:  # the discard port: nobody listens there
        body = {"model": BASE, "messages": [{"role": "user", "content": "x"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=service.headers)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert answer.headers["retry-after-ms"] == "500"
