"""A layer's race: quorum, patience, deadline, and who is stopped by whom."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from moatelier.contracts import Layer, Proposal
from serving.quorum import LEAST_PATIENCE_S, Late, Quorum

Race = Callable[..., Awaitable[tuple[list[str], float]]]


async def race(*waits: float | None, bad: tuple[int, ...] = (), **layer: Any) -> tuple[list[str], float]:
    """What became of proposals that take so many seconds (None: for ever), and how long the layer took."""
    fields = {"proposers": [{"base": True}] * len(waits), **layer}
    loop = asyncio.get_running_loop()
    quorum, begun = Quorum(Layer.model_validate(fields), len(waits)), loop.time()

    async def one(place: int, wait: float | None) -> str:
        async def work() -> Proposal:
            await asyncio.sleep(3600 if wait is None else wait)
            return Proposal(layer=0, place=place, model="m", text="x", error="no" if place in bad else "")

        try:
            return (await quorum.run(work())).error or "yes"
        except Late:
            return "late"

    found = await asyncio.gather(*(one(place, wait) for place, wait in enumerate(waits)))
    return found, loop.time() - begun


def test_without_trouble_everybody_is_heard() -> None:
    assert asyncio.run(race(0, 0, 0.01, 0.01))[0] == ["yes"] * 4


def test_once_the_quorum_is_there_the_rest_have_as_long_again() -> None:
    found, seconds = asyncio.run(race(0.3, 0.3, 0.45, None, quorum=2))
    assert found == ["yes", "yes", "yes", "late"] and 0.58 < seconds < 1.2


def test_a_quick_quorum_leaves_the_rest_a_moment() -> None:
    found, seconds = asyncio.run(race(0, 0, LEAST_PATIENCE_S / 3, None, quorum=2, patience=0))
    assert found == ["yes", "yes", "yes", "late"] and seconds < 0.5


def test_failures_do_not_make_a_quorum() -> None:
    found, seconds = asyncio.run(race(0, 0, 0.2, 0.2, quorum=2, bad=(0, 1), patience=0))
    assert found == ["no", "no", "yes", "yes"] and seconds >= 0.2


def test_more_than_half_is_the_quorum_by_default() -> None:
    assert asyncio.run(race(0, 0, None, None, deadline_s=0.2))[0] == ["yes", "yes", "late", "late"]
    found, seconds = asyncio.run(race(0, 0, 0, None, deadline_s=5))
    assert found == ["yes"] * 3 + ["late"] and seconds < 1


def test_at_the_deadline_nobody_is_waited_for() -> None:
    found, seconds = asyncio.run(race(None, None, deadline_s=0.1))
    assert found == ["late", "late"] and 0.09 < seconds < 0.5


def test_when_all_have_failed_there_is_nothing_to_wait_for() -> None:
    found, seconds = asyncio.run(race(0, 0, bad=(0, 1), deadline_s=5))
    assert found == ["no", "no"] and seconds < 1


def test_whoever_asked_may_go_away_and_the_work_ends() -> None:
    ended: list[str] = []

    async def work() -> Proposal:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("ended")
        raise AssertionError

    async def scene() -> None:
        quorum = Quorum(Layer.model_validate({"proposers": [{"base": True}]}), 1)
        asking = asyncio.create_task(quorum.run(work()))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(scene())
    assert ended == ["ended"]


def test_an_error_of_ours_is_not_taken_for_lateness() -> None:
    async def work() -> Proposal:
        raise ZeroDivisionError

    async def scene() -> None:
        quorum = Quorum(Layer.model_validate({"proposers": [{"base": True}]}), 1)
        with pytest.raises(ZeroDivisionError):
            await quorum.run(work())
        with pytest.raises(Late):
            await quorum.run(work())

    asyncio.run(scene())
