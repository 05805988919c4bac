"""The thread that runs the engine, with the tiny base."""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest

from moatelier import genai, tracing
from moatelier.errors import Cancelled, DeadlineExceeded, InvalidRequest, MoatelierError, NotFound, Overloaded
from serving import metrics
from serving.driver import Driver, Ticket
from serving.engine import Delta, Sampling, TextEngine
from tests.serving.conftest import Seal
from tests.serving.test_engine import joined, messages, prompts, solo
from tests.tracing import recorded


@pytest.fixture
def driver(engine: TextEngine) -> Iterator[Driver]:
    driver = Driver(lambda: engine)
    yield driver
    asyncio.run(driver.call(lambda engine: None))  # the thread is at rest, hence nothing is left of this test


def ask(driver: Driver, text: str, sampling: Sampling, **options: Any) -> Ticket:
    fields = {"adapters": [None]} | options
    return driver.submit(lambda engine: engine.submit(messages(text), sampling=sampling, **fields))


async def read(ticket: Ticket) -> list[Delta]:
    return [delta async for delta in ticket]


def run(scene: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(scene, 60)

    return asyncio.run(bounded())


def test_answers_are_those_of_quiet_times(driver: Driver, engine: TextEngine, sealed: Seal) -> None:
    engine.load_adapter("loud", sealed("loud"))
    asked = [(turns[-1]["content"], [None, "loud"][n % 2]) for n, turns in enumerate(prompts(9))]
    quiet = [solo(engine, messages(text), name, Sampling(12)).text for text, name in asked]

    async def scene() -> list[str]:
        tickets = [ask(driver, text, Sampling(12), adapters=[name]) for text, name in asked]
        return [joined(deltas) for deltas in await asyncio.gather(*map(read, tickets))]

    assert run(scene()) == quiet
    assert (driver.busy, engine.memory.taken) == (0, 0)


def test_an_error_reaches_its_reader_and_nobody_else(driver: Driver) -> None:
    async def scene() -> None:
        good, bad = ask(driver, "refund", Sampling(8)), ask(driver, "refund", Sampling(8), adapters=["nobody"])
        long = driver.submit(lambda engine: engine.submit(messages("Zq" * 600), adapters=[None], sampling=Sampling(8)))
        with pytest.raises(NotFound):
            await anext(bad)
        with pytest.raises(StopAsyncIteration):
            await anext(bad)
        with pytest.raises(InvalidRequest, match="context"):
            await anext(long)
        assert len(await read(good)) == 8

    run(scene())


def test_work_between_two_steps(driver: Driver, sealed: Seal) -> None:
    async def scene() -> None:
        running = ask(driver, "refund", Sampling(30))
        await anext(running)
        await driver.call(lambda engine: engine.load_adapter("loud", sealed("loud")))
        assert len(await read(ask(driver, "refund", Sampling(3), adapters=["loud"]))) == 3
        assert len(await read(running)) == 29
        with pytest.raises(ZeroDivisionError):
            await driver.call(lambda engine: 1 // 0)
        assert await driver.call(lambda engine: 5) == 5

    run(scene())


def test_cancelling_frees_memory_within_a_step(driver: Driver, engine: TextEngine) -> None:
    async def scene() -> None:
        ticket = ask(driver, "refund", Sampling(400), choices=3)
        await anext(ticket)
        assert engine.memory.taken > 0
        ticket.cancel()
        with suppress(Cancelled):
            await read(ticket)
        assert (driver.busy, engine.memory.taken) == (0, 0)

    run(scene())


def test_one_that_was_cancelled_while_it_waited_never_starts(driver: Driver, engine: TextEngine) -> None:
    async def scene() -> None:
        ticket = ask(driver, "refund", Sampling(5))
        ticket.cancel()
        with pytest.raises(Cancelled):
            await read(ticket)

    run(scene())
    assert engine.passes.prompt_work == 0


def test_a_deadline_ends_an_answer_and_no_other(driver: Driver) -> None:
    async def scene() -> None:
        late, other = ask(driver, "refund", Sampling(480, deadline_s=0.05)), ask(driver, "lost", Sampling(40))
        with pytest.raises(DeadlineExceeded):
            await read(late)
        assert len(await read(other)) == 40

    run(scene())


def test_a_reader_whose_loop_is_gone_stops_its_answer(driver: Driver, engine: TextEngine) -> None:
    async def leave() -> None:
        await anext(ask(driver, "refund", Sampling(480)))

    run(leave())
    run(driver.call(lambda engine: None))
    for _ in range(100):
        if driver.busy == 0:
            break
        run(driver.call(lambda engine: None))
    assert (driver.busy, engine.memory.taken) == (0, 0)


def test_a_thread_that_cannot_go_on_tells_everybody_and_leaves(
    engine: TextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every later request would hang, and the process would look well."""
    left: list[bool] = []
    driver = Driver(lambda: engine, leave=lambda: left.append(True))

    def broken(*_: object) -> None:
        raise RuntimeError("no memory for less memory")

    async def scene() -> None:
        monkeypatch.setattr(engine, "cancel", broken)
        ticket, other = ask(driver, "refund", Sampling(400)), ask(driver, "lost", Sampling(400))
        await anext(ticket)
        ticket.cancel()
        for each in (ticket, other):
            with pytest.raises(MoatelierError, match="no memory"):
                await read(each)

    run(scene())
    for _ in range(100):
        if left:
            break
        time.sleep(0.02)
    assert left == [True]


def test_a_deadline_counts_from_when_it_was_asked(driver: Driver, engine: TextEngine) -> None:
    async def scene() -> None:
        asked = time.monotonic()
        await driver.call(lambda engine: time.sleep(0.3))
        late = ask(driver, "refund", Sampling(5, deadline_s=0.2), asked=asked)
        with pytest.raises(DeadlineExceeded):
            await read(late)

    run(scene())


def test_who_reads_the_whole_answer_is_called_once(driver: Driver, engine: TextEngine) -> None:
    async def scene() -> list[int]:
        calls: list[int] = []
        ticket = driver.submit(
            lambda engine: engine.submit(messages("refund"), adapters=[None], sampling=Sampling(20)), eager=False
        )
        say = ticket.say
        ticket.say = lambda items: (calls.append(len(items)), say(items))[1]  # type: ignore[method-assign]
        assert len(await read(ticket)) == 20
        return calls

    assert run(scene()) == [21]


def test_after_a_while_without_requests_computed_prompts_go(
    driver: Driver, engine: TextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.driver.REST_S", 0.3)

    async def scene() -> None:
        await read(ask(driver, "where is my order card refund please", Sampling(2)))
        assert len(engine.blocks) > 0
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not len(engine.blocks):
                break
        assert engine.memory.used == 0
        assert len(await read(ask(driver, "refund", Sampling(2)))) == 2

    run(scene())


def test_an_engine_that_cannot_be_loaded_is_told_at_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base has not been pulled: the thread must live on until it has, also past its time of rest."""
    monkeypatch.setattr("serving.driver.REST_S", 0.05)
    left: list[bool] = []

    def missing() -> TextEngine:
        raise NotFound("It has not been pulled.")

    async def scene() -> None:
        driver = Driver(missing, leave=lambda: left.append(True))
        for _ in range(3):
            with pytest.raises(NotFound):
                await read(ask(driver, "refund", Sampling(2)))
            await asyncio.sleep(0.2)

    run(scene())
    assert left == []


def test_a_step_that_fails_is_told_and_the_thread_goes_on(
    driver: Driver, engine: TextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    async def scene() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine.passes, "forward", broken)
            with pytest.raises(Exception, match="RuntimeError: the device is gone"):
                await read(ask(driver, "refund", Sampling(5)))
        assert len(await read(ask(driver, "refund", Sampling(5)))) == 5

    run(scene())


def test_a_request_is_counted_once_with_its_times(driver: Driver) -> None:
    def counted() -> dict[str, float]:
        return {
            sample.name + sample.labels.get("outcome", ""): sample.value
            for family in metrics.REGISTRY.collect()
            for sample in family.samples
            if "le" not in sample.labels
        }

    async def scene() -> None:
        await asyncio.gather(read(ask(driver, "refund", Sampling(6))), read(ask(driver, "parcel", Sampling(6))))
        with pytest.raises(NotFound):
            await anext(ask(driver, "refund", Sampling(8), adapters=["nobody"]))
        gone = ask(driver, "refund", Sampling(200))
        await anext(gone)
        gone.cancel()
        with suppress(Cancelled):
            await read(gone)

    before = counted()
    run(scene())
    asyncio.run(driver.call(lambda engine: None))  # what is counted after the last word is counted now
    added = Counter({name: value - before.get(name, 0) for name, value in counted().items()})
    engine = "moatelier_engine_"
    assert added[f"{engine}answers_totalstop"] + added[f"{engine}answers_totallength"] == 2
    assert added[f"{engine}answers_totalcancelled"] == 1
    assert added[f"{engine}time_to_first_token_seconds_count"] == added[f"{engine}queue_seconds_count"] == 3
    assert added[f"{engine}generated_tokens_total"] > 4
    assert 0 < added[f"{engine}queue_seconds_sum"] <= added[f"{engine}time_to_first_token_seconds_sum"]
    assert added[f"{engine}batch_rows_count"] <= added[f"{engine}step_seconds_count"]


def test_who_would_wait_too_long_is_refused_and_who_has_begun_is_not(driver: Driver) -> None:
    async def scene() -> None:
        running = [ask(driver, "refund", Sampling(40)) for _ in range(16)]
        for ticket in running:
            await anext(ticket)
        late, patient = ask(driver, "parcel", Sampling(2)), ask(driver, "parcel", Sampling(2))
        late.patience_s = 0.0
        with pytest.raises(Overloaded):
            await read(late)
        for ticket in [*running, patient]:
            assert await read(ticket)

    run(scene())


def test_the_steps_of_a_request_are_spans_of_its_trace(driver: Driver) -> None:
    async def scene() -> None:
        with tracing.span("request"):
            ticket = ask(driver, "refund", Sampling(6))
        await read(ticket)

    with recorded() as spans:
        run(scene())
        asyncio.run(driver.call(lambda engine: None))
    names = ["engine.queue", "engine.read", "engine.decode"]
    found = [spans.named(name)[0] for name in names]
    assert {spans.parent_name(span) for span in found} == {"request"}
    edges = [moment for span in found for moment in (span.start_time, span.end_time)]
    assert all(later >= earlier - 1_000_000 for earlier, later in zip(edges, edges[1:], strict=False))  # type: ignore[operator]
    assert found[2].attributes[genai.OUTPUT_TOKENS] > 1  # type: ignore[index,operator]
