"""What runs and what waits, without a model."""

import pytest

from serving.kv import BLOCK, Chain
from serving.memory import Memory
from serving.room import Rooms, Shape
from serving.row import Lane, Row
from serving.sampling import Chooser, Sampling
from serving.scheduler import Scheduler
from serving.textstream import TextStream
from tests.serving.rooms import SHAPE


def row(tokens: int, *, flow: str = "", limit: int = 10, owner: str = "base", lanes: int = 1, first: int = 0) -> Row:
    made = tuple(
        Lane(None, list(range(first, first + tokens)), 0, Chain("lower", "base"), Chain("upper", f"{owner}{n}"))
        for n in range(lanes)
    )
    return Row(0, made, tokens, limit, Chooser(Sampling(limit)), TextStream(str), flow)


class Table:
    """Seats for rows, and a step without a model: what is read has been computed."""

    def __init__(self, scheduler: Scheduler, shape: Shape = SHAPE) -> None:
        self.scheduler, self.rooms = scheduler, Rooms(shape, Memory(10**9))

    def enter(self, row: Row) -> bool:
        for lane in row.lanes:
            lane.seat = self.rooms.enter(len(lane.ids) + row.limit)
        return True

    def step(self) -> list[tuple[int, int]]:
        """(tokens decoded, tokens read) of each row that did something, by its place among the running."""
        self.scheduler.admit(self.enter)
        plan = self.scheduler.plan()
        read = {id(lane): tokens for lane, tokens in plan.read}
        told = [
            (int(row in plan.decode), sum(read.get(id(lane), 0) for lane in row.lanes))
            for row in self.scheduler.running
        ]
        for lane, tokens in plan.read:
            assert lane.seat is not None
            lane.seat.tokens += tokens
            lane.seat.lower = lane.seat.tokens
        for row in self.scheduler.running:
            row.read = all(lane.unread == 0 for lane in row.lanes)
        return told


def test_a_long_prompt_is_read_in_pieces_while_others_decode() -> None:
    table = Table(Scheduler(step_tokens=4 * BLOCK))
    table.scheduler.add(row(10))
    assert table.step() == [(0, 10)]
    table.scheduler.add(row(200, first=1000))
    assert table.step() == [(1, 0), (0, 3 * BLOCK)], "whole blocks, beside one token of the row that decodes"
    assert [table.step()[1] for _ in range(3)] == [(0, 3 * BLOCK)] * 2 + [(0, 200 - 9 * BLOCK)]
    assert table.step() == [(1, 0), (1, 0)]


def test_where_two_would_compute_the_same_block_the_later_one_waits() -> None:
    table = Table(Scheduler())
    for owner in ("a", "b"):
        table.scheduler.add(row(3 * BLOCK, owner=owner))
    table.scheduler.add(row(3 * BLOCK, first=500))
    assert table.step() == [(0, 3 * BLOCK), (0, 0), (0, 3 * BLOCK)]
    assert table.step() == [(1, 0), (0, 3 * BLOCK), (1, 0)]


def test_short_prompts_without_a_whole_block_do_not_wait_for_each_other() -> None:
    table = Table(Scheduler())
    for _ in range(3):
        table.scheduler.add(row(BLOCK - 1))
    assert table.step() == [(0, BLOCK - 1)] * 3


def test_no_more_lanes_run_than_there_are_places() -> None:
    table = Table(Scheduler(max_lanes=5))
    for _ in range(3):
        table.scheduler.add(row(5, lanes=2))
    table.step()
    assert (len(table.scheduler.running), len(table.scheduler.waiting)) == (2, 1)
    table.scheduler.finish(table.scheduler.running[0])
    table.step()
    assert (len(table.scheduler.running), len(table.scheduler.waiting)) == (2, 0)


def test_a_row_with_more_lanes_than_places_runs_alone() -> None:
    table = Table(Scheduler(max_lanes=2))
    table.scheduler.add(row(5, lanes=3))
    table.step()
    assert len(table.scheduler.running) == 1


def order(scheduler: Scheduler) -> list[str]:
    served = []
    while scheduler.waiting:
        scheduler.admit(lambda row: not served.append(row.flow))
        scheduler.running.clear()
    return served


def test_one_who_asks_a_hundred_times_does_not_keep_others_waiting() -> None:
    scheduler = Scheduler(max_lanes=1)
    for _ in range(20):
        scheduler.add(row(10, flow="busy"))
    scheduler.add(row(10, flow="rare"))
    assert order(scheduler).index("rare") == 1


def test_flows_share_the_work_not_the_number_of_requests() -> None:
    scheduler = Scheduler(max_lanes=1)
    for _ in range(12):
        scheduler.add(row(90, flow="long", limit=10))
    for _ in range(60):
        scheduler.add(row(5, flow="short", limit=5))
    served = order(scheduler)[:33]
    assert served.count("long") == 3 and served.count("short") == 30


def test_a_preempted_row_goes_on_before_those_that_wait() -> None:
    scheduler = Scheduler(max_lanes=1)
    first, second = row(5), row(5)
    scheduler.add(first)
    scheduler.admit(lambda row: True)
    scheduler.add(second)
    scheduler.preempt(first)
    scheduler.admit(lambda row: True)
    assert scheduler.running == [first]
    assert scheduler.waiting == (second,)


def test_nobody_overtakes_one_for_whom_there_is_no_memory() -> None:
    scheduler = Scheduler()
    large, small = row(500), row(5)
    scheduler.add(large)
    scheduler.add(small)
    scheduler.admit(lambda row: row is small)
    assert scheduler.running == [] and scheduler.busy == 2


def test_a_row_may_finish_in_any_state() -> None:
    scheduler = Scheduler(max_lanes=1)
    rows = [row(5), row(6), row(7)]
    for one in rows:
        scheduler.add(one)
    scheduler.admit(lambda row: True)
    scheduler.preempt(rows[0])
    scheduler.finish(rows[0])
    scheduler.finish(rows[2])
    scheduler.admit(lambda row: True)
    assert scheduler.running == [rows[1]]
    scheduler.finish(rows[1])
    assert scheduler.busy == 0


def test_small_rows_pass_one_that_needs_more_places_but_not_for_ever() -> None:
    scheduler, served = Scheduler(max_lanes=4), []
    scheduler.add(row(5))
    scheduler.admit(lambda row: True)
    large = row(5, lanes=4, flow="large")
    scheduler.add(large)
    for _ in range(40):
        scheduler.add(row(5, flow="small", limit=1))
    for _ in range(60):
        scheduler.admit(lambda row: not served.append(row.flow))
        scheduler.running[1:] = []
        if len(served) >= 32:
            scheduler.running.clear()
    assert served.index("large") == 32


def test_a_row_that_is_cancelled_while_it_waits_costs_its_flow_nothing() -> None:
    scheduler = Scheduler(max_lanes=1)
    cancelled = [row(500, flow="a") for _ in range(50)]
    for one in cancelled:
        scheduler.add(one)
    for one in cancelled:
        scheduler.finish(one)
    for _ in range(5):
        scheduler.add(row(10, flow="b"))
    scheduler.add(row(10, flow="a"))
    assert order(scheduler).index("a") <= 1


def test_names_of_those_who_asked_once_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.scheduler.MAX_FLOWS", 20)
    scheduler = Scheduler(max_lanes=1)
    for number in range(100):
        scheduler.add(row(10, flow=f"user {number}"))
    assert len(scheduler._queue._ends) == 20
    order(scheduler)
    assert len(scheduler._queue._ends) == 0
