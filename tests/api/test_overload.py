"""More than can be answered: who has no place is told at once, with 429 and when to come back."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api import metrics
from api.app import create_app
from moatelier.settings import settings
from store import keys
from tests.api import fake_engine
from tests.api.running import running, wait_until

BODY: dict[str, Any] = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hello"}]}
SLOW = BODY | {"messages": [{"role": "user", "content": "slow"}], "stream": True}


@pytest.fixture
def narrow(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service that lets two requests in and none wait."""
    for name, value in {"IN_FLIGHT": "2", "QUEUE": "0", "QUEUE_WAIT_S": "0.2"}.items():
        monkeypatch.setenv(f"MOATELIER_{name}", value)
    settings.cache_clear()
    headers = {"x-api-key": keys.ensure_admin()}
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            yield client


def taken() -> float:
    return metrics.REGISTRY.get_sample_value("moatelier_admission_in_flight") or 0.0


def test_streams_hold_places_and_others_are_refused_until_they_end(narrow: httpx.Client) -> None:
    refused = metrics.REGISTRY.get_sample_value("moatelier_overloaded_total") or 0.0
    with narrow.stream("POST", "/v1/chat/completions", json=SLOW) as one:
        first = one.iter_raw()  # kept: httpx hangs up for whoever lets go of it
        next(first)
        assert narrow.post("/v1/chat/completions", json=BODY).status_code == 200
        with narrow.stream("POST", "/v1/chat/completions", json=SLOW) as two:
            second = two.iter_raw()
            next(second)
            for body in (BODY, BODY | {"stream": True}):
                answer = narrow.post("/v1/chat/completions", json=body)
                assert answer.status_code == 429
                assert answer.json()["error"] | {"message": ""} == {
                    "message": "",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "overloaded",
                }
                assert 1 <= int(answer.headers["retry-after"]) <= 30
                assert "x-should-retry" not in answer.headers
            assert narrow.get("/healthz").status_code == 200
    wait_until(lambda: taken() == 0)
    assert narrow.post("/v1/chat/completions", json=BODY).status_code == 200
    assert metrics.REGISTRY.get_sample_value("moatelier_overloaded_total") == refused + 2


def test_an_openai_client_comes_back_by_itself(narrow: httpx.Client) -> None:
    key = narrow.headers["x-api-key"]
    hold = threading.Event()

    def occupy() -> None:
        with narrow.stream("POST", "/v1/chat/completions", json=SLOW) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            hold.wait(20)

    threads = [threading.Thread(target=occupy) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: taken() == 2)
    freed = threading.Timer(0.3, hold.set)
    freed.start()
    with openai.OpenAI(base_url=f"{narrow.base_url}/v1", api_key=key, timeout=20, max_retries=2) as client:
        answer = client.chat.completions.create(**BODY)
    assert answer.choices[0].message.content == "smollm2-135m-instruct: hello"
    for thread in [*threads, freed]:
        thread.join(20)


def test_a_client_that_leaves_early_leaves_its_place(narrow: httpx.Client) -> None:
    for _ in range(6):
        with narrow.stream("POST", "/v1/chat/completions", json=SLOW) as answer:
            assert answer.status_code == 200
        wait_until(lambda: taken() == 0)
