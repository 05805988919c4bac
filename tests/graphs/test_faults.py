"""With any one of four proposers faulty, every one of 200 requests is answered, and rightly."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from graphs.answering import answering
from moatelier.contracts import Trace
from moatelier.settings import settings
from tests.faulty import FAULTS, Models, serving
from tests.graphs.mixing import mixture

REQUESTS, AT_ONCE = 200, 20
DEAD = "http://127.0.0.1:9"
"""The discard port: nobody listens there."""
pytestmark = pytest.mark.usefixtures("home")


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[None]:
    endpoints = {"fakes": {"url": url, "concurrency": 200}, "gone": {"url": DEAD}}
    monkeypatch.setenv("MOATELIER_UPSTREAMS", json.dumps(endpoints))
    settings.cache_clear()
    yield
    settings.cache_clear()


def recipe(kinds: list[str], aggregator: str) -> dict[str, Any]:
    proposers = [{"upstream": "gone" if kind == "gone" else "fakes", "model": kind} for kind in kinds]
    return {"name": "desk", "layers": [{"proposers": proposers, "deadline_s": 20}], "aggregator": {"kind": aggregator}}


async def ask_all(made: Any, count: int, likelihoods: bool = False) -> list[Trace]:
    turns = asyncio.Semaphore(AT_ONCE)
    async with answering(DEAD) as answers:

        async def one(number: int) -> Trace:
            async with turns:
                return await answers.answer(made, [{"role": "user", "content": f"question {number}"}])

        return await asyncio.gather(*(one(number) for number in range(count)))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("fault", [*FAULTS, "gone"])
def test_one_faulty_proposer_never_fails_a_request(fault: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["well-1", "well-2", "well-3"]
    kinds.insert(place, fault)

    async def scene() -> tuple[list[Trace], float, Models]:
        models = Models()
        async with serving(models) as url:
            with configured(monkeypatch, url):
                begun = time.monotonic()
                # Every place meets 50 of the 200 requests of its fault.
                traces = await ask_all(mixture(recipe(kinds, ["vote", "select"][place % 2])), REQUESTS // 4)
                return traces, time.monotonic() - begun, models

    traces, seconds, models = asyncio.run(scene())
    assert [trace.text for trace in traces] == ["parcel"] * (REQUESTS // 4)
    assert seconds < 10, "nobody waits for the one that hangs"
    errors = {trace.proposals[place].error for trace in traces}
    assert fault == "babble" or "" not in errors, errors
    asked = sum(body["model"] == fault for body in models.asked)
    assert asked <= 5 + AT_ONCE or fault == "babble", "one that keeps failing is left alone"


@pytest.mark.parametrize("aggregator", ["one", "select", "vote"])
def test_three_faulty_proposers_leave_the_fourths_answer(aggregator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> list[Trace]:
        async with serving(Models()) as url:
            with configured(monkeypatch, url):
                return await ask_all(mixture(recipe(["down", "junk", "cut", "well"], aggregator)), 20)

    assert [trace.text for trace in asyncio.run(scene())] == ["parcel"] * 20


def test_keys_and_questions_are_in_no_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-not-for-anyone"

    async def scene() -> list[Trace]:
        async with serving(Models()) as url:
            with configured(monkeypatch, url):
                monkeypatch.setenv("MOATELIER_UPSTREAMS", json.dumps({"fakes": {"url": url, "key": key}}))
                settings.cache_clear()
                return await ask_all(mixture(recipe(["down", "junk", "empty", "well"], "vote")), 3)

    with caplog.at_level("DEBUG"):
        told = "".join(trace.model_dump_json() for trace in asyncio.run(scene()))
    assert key not in told + caplog.text and "question 0" not in told
