r"""Which rows run and what the next step computes. Decides only: memory and mathematics are the engine's.

    waiting -> running -> finished
                  \-> preempted -> running

Rows wait in flows (who asks, with which adapter) that take turns by the tokens they ask for: start-time fair queueing
(Goyal, Vin, Cheng 1996). A step decodes one token of every row that has been read, and reads prompts with what is left
of its budget of tokens, in the order in which the rows came to run.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from serving.kv import BLOCK, BlockKey
from serving.row import Lane, Row

MAX_LANES = 16
"""Lanes that run side by side."""
MAX_PASSED = 32
"""So many rows may overtake one that waits for more places than are free."""
MAX_FLOWS = 1000
"""So many flows are remembered, those first heard of are forgotten first; a forgotten one is as good as new."""
STEP_TOKENS = 256
"""Tokens of a step. More reads prompts faster and makes those who are being answered wait longer."""


@dataclass(frozen=True)
class Plan:
    """One step.

    Attributes:
        decode: Rows that get one more token.
        read: Lanes with how many tokens of their prompt are computed.
    """

    decode: tuple[Row, ...]
    read: tuple[tuple[Lane, int], ...]

    def __bool__(self) -> bool:
        return bool(self.decode or self.read)


class Scheduler:
    """Rows by state.

    Args:
        max_lanes: Upper bound of lanes that run; a row with more runs alone.
        step_tokens: Upper bound of tokens in a step, but for one a row that decodes.
    """

    def __init__(self, max_lanes: int = MAX_LANES, step_tokens: int = STEP_TOKENS) -> None:
        self.max_lanes, self.step_tokens = max_lanes, step_tokens
        self.running: list[Row] = []
        """In the order in which they came to run."""
        self.preempted: deque[Row] = deque()
        self._queue = _FairQueue()

    @property
    def waiting(self) -> tuple[Row, ...]:
        """Rows that have not run yet."""
        return self._queue.rows

    @property
    def busy(self) -> int:
        """Rows that are not finished."""
        return len(self.running) + len(self.preempted) + len(self.waiting)

    def add(self, row: Row) -> None:
        """Let a row wait."""
        self._queue.put(row)

    def admit(self, enter: Callable[[Row], bool]) -> None:
        """Let rows run that wait, the preempted first, as long as there is a place and `enter` finds memory."""
        while row := self._next():
            if not enter(row):
                return
            if self.preempted:
                self.preempted.popleft()
            else:
                self._queue.take(row)
            if not row.over:
                self.running.append(row)

    def _next(self) -> Row | None:
        """Whose turn it is; None when there is no place for them.

        A row that needs more places than are free is passed by smaller ones, but not for ever.
        """
        places = self.max_lanes - sum(len(running.lanes) for running in self.running)
        row = self.preempted[0] if self.preempted else self._queue.first
        if row is None or len(row.lanes) <= places or not self.running:
            return row
        if self.preempted or row.passed >= MAX_PASSED:
            return None
        other = next((other for other in self._queue.rows if len(other.lanes) <= places), None)
        row.passed += other is not None
        return other

    def plan(self) -> Plan:
        """What the next step computes.

        Where two lanes would make the same block, the later one waits for the earlier one's.
        """
        decode = tuple(row for row in self.running if row.read)
        left = self.step_tokens - sum(len(row.lanes) for row in decode)
        read: list[tuple[Lane, int]] = []
        claimed: set[BlockKey] = set()
        for lane in self._unread():
            tokens = _chunk(lane, max(left, 0))
            making = lane.making(tokens) if tokens else set()
            if tokens and not making & claimed:
                claimed |= making
                read.append((lane, tokens))
                left -= tokens
        return Plan(decode, tuple(read))

    def preempt(self, row: Row) -> None:
        """Take a running row's place away; it goes on before those that wait."""
        self.running.remove(row)
        self.preempted.appendleft(row)

    def finish(self, row: Row) -> None:
        """The row is over, whatever state it is in."""
        if row in self.running:
            self.running.remove(row)
        elif row in self.preempted:
            self.preempted.remove(row)
        else:
            self._queue.remove(row)

    def youngest(self, but: Row) -> Row | None:
        """The running row that came last, but for one."""
        return next((row for row in reversed(self.running) if row is not but), None)

    def all(self) -> Iterable[Row]:
        """Every row that is not finished."""
        return (*self.running, *self.preempted, *self.waiting)

    def _unread(self) -> Iterator[Lane]:
        return (lane for row in self.running if not row.read for lane in row.lanes if lane.logits is None)


def _chunk(lane: Lane, left: int) -> int:
    """How many tokens a lane reads of `left`: all that it needs, or up to the end of a block."""
    assert lane.seat is not None
    if lane.unread <= left:
        return lane.unread
    end = (lane.seat.tokens + left) // BLOCK * BLOCK
    return max(0, end - lane.seat.tokens)


class _FairQueue:
    """Waiting rows; each flow's share of the work is the same, however many rows it sends."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Row]] = []
        """(when its turn comes, arrival, row), in that order."""
        self._ends: dict[str, float] = {}
        self._now = 0.0
        self._arrivals = itertools.count()

    @property
    def rows(self) -> tuple[Row, ...]:
        """In the order of their turns."""
        return tuple(row for *_, row in self._entries)

    @property
    def first(self) -> Row | None:
        return self._entries[0][2] if self._entries else None

    def put(self, row: Row) -> None:
        start = max(self._now, self._ends.get(row.flow, 0.0))
        self._ends[row.flow] = start + _cost(row)
        while len(self._ends) > MAX_FLOWS:  # who asks under ever new names must not fill memory
            del self._ends[next(iter(self._ends))]
        bisect.insort(self._entries, (start, next(self._arrivals), row))

    def take(self, row: Row) -> None:
        """The row comes to run."""
        self._now = max(self._now, self._leave(row))
        if not self._entries:
            self._ends.clear()

    def remove(self, row: Row) -> None:
        """The row was never served: its flow does not pay for it."""
        self._leave(row)
        if row.flow in self._ends:
            self._ends[row.flow] -= _cost(row)

    def _leave(self, row: Row) -> float:
        place = next(place for place, entry in enumerate(self._entries) if entry[2] is row)
        return self._entries.pop(place)[0]


def _cost(row: Row) -> int:
    return sum(len(lane.ids) + row.limit for lane in row.lanes)
