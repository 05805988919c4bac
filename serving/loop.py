"""One step of the engine after another: rows come to run, read their prompts, get their tokens, and leave."""

import time
from collections.abc import Mapping, Sequence

import torch

from moatelier.errors import DeadlineExceeded, IntegrityError, MoatelierError, ResourceExhausted
from serving.adapters import Adapters
from serving.batch import Passes
from serving.room import Rooms
from serving.row import Lane, Row
from serving.sampling import choose, likelihoods
from serving.scheduler import Plan, Scheduler
from serving.sharing import Sharing
from serving.whole import TextWeights

AHEAD = 128
"""A row's room is chosen so that an answer of so many tokens, if it may be as long, needs no larger one."""


class Loop:
    """The running of rows.

    Args:
        stop_ids: Tokens that end an answer.
        rooms: For what rows that run have computed.
        sharing: With those who begin alike.
        adapters: Whose weights are held while a row needs them.
        passes: Runs the model.
    """

    def __init__(
        self,
        stop_ids: tuple[int, ...],
        *,
        rooms: Rooms,
        sharing: Sharing,
        adapters: Adapters[TextWeights],
        passes: Passes,
    ) -> None:
        self.scheduler = Scheduler()
        self._stop_ids = stop_ids
        self.rooms, self._sharing, self._adapters, self._passes = rooms, sharing, adapters, passes

    def add(self, row: Row) -> None:
        """Let a row wait for its turn; its adapters stay until it is over."""
        for lane in row.lanes:
            if lane.adapter:
                self._adapters.use(lane.adapter)
        self.scheduler.add(row)

    def step(self) -> list[Row]:
        """Compute one step; the rows that have news or are over since. Nothing when nobody waits.

        What is one row's fault is that row's error, and never raised.
        """
        with torch.inference_mode():
            changed = self._expire() + self._admit()
            for row in self.scheduler.running:
                for lane in row.lanes if not row.read else ():
                    if lane.logits is None:
                        self._sharing.attach(lane, upper=row.untold)
            plan, stuck = self._seated(self.scheduler.plan())
            return [*changed, *stuck, *(self._compute(plan) if plan else ())]

    def cancel(self, row: Row) -> None:
        """Nobody waits for the row any more: its memory is free at once. Does nothing to a row that is over."""
        if not row.over:
            row.finish_reason = "stop"
            with torch.inference_mode():
                self._end(row)

    def _expire(self) -> list[Row]:
        late = [row for row in self.scheduler.all() if row.late]
        for row in late:
            row.error = DeadlineExceeded("The answer was not ready by its deadline.", where="deadline_s")
            self._end(row)
        return late

    def _admit(self) -> list[Row]:
        """Let waiting rows run; those that never can are over."""
        failed: list[Row] = []

        def enter(row: Row) -> bool:
            try:
                entered = self._enter(row)
            except MoatelierError as error:
                entered, row.error = True, error
            if not entered and not self.scheduler.running:
                entered, row.error = True, _too_large(row)
            if row.error:
                failed.append(row)
                self._leave(row)
                self._release(row)
            return entered

        self.scheduler.admit(enter)
        return failed

    def _enter(self, row: Row) -> bool:
        """Give a row seats and its adapters' weights; False, and nothing changed, without memory for them."""
        for lane in row.lanes:
            if not self._sit(lane, len(lane.ids) + min(row.limit, AHEAD)):
                self._leave(row)
                return False
        row.began = row.began or time.monotonic()
        return True

    def _sit(self, lane: Lane, tokens: int) -> bool:
        if lane.adapter:
            try:
                self._adapters.hold(lane.adapter)
            except ResourceExhausted:
                return False
        try:
            lane.seat = self.rooms.enter(tokens, lane.owner)
        finally:
            if lane.seat is None and lane.adapter:
                self._adapters.release(lane.adapter)
        return lane.seat is not None

    def _seated(self, plan: Plan) -> tuple[Plan, list[Row]]:
        """Make room for every token of a step.

        Returns:
            The plan without the rows for whose tokens there is no room, which stop running for now; and those that
            are over, since there is nobody whose memory they could have.
        """
        stuck: list[Row] = []
        for row in plan.decode:
            while row in self.scheduler.running and not self._stretch(row):
                other = self.scheduler.youngest(but=row)
                if other is None:
                    row.error = _too_large(row)
                    self._end(row)
                    stuck.append(row)
                else:
                    self._preempt(other)
        decode = tuple(row for row in plan.decode if row in self.scheduler.running)
        return Plan(decode, tuple((lane, tokens) for lane, tokens in plan.read if lane.seat)), stuck

    def _stretch(self, row: Row) -> bool:
        for lane in row.lanes:
            assert lane.seat is not None
            seat = self.rooms.stretch(lane.seat, len(lane.ids))
            if seat is None:
                return False
            lane.seat = seat
        return True

    def _compute(self, plan: Plan) -> list[Row]:
        seats = {id(lane.seat): lane for row in plan.decode for lane in row.lanes}
        rooms = [room for room in self.rooms if room.decoding]
        decode = [seats[id(seat)] for room in rooms for seat in room.seats[: room.decoding]]
        hidden = self._passes.forward(rooms, decode, plan.read)
        rows = {id(lane): row for row in self.scheduler.running for lane in row.lanes}
        self._take_logits(decode, plan, hidden, rows)
        changed = [row for row in self.scheduler.running if all(lane.logits is not None for lane in row.lanes)]
        self._choose(changed)
        for lane, _ in plan.read:
            if lane.seat:  # a row that is over has left, and what it had is shared or was broken
                self._sharing.publish(lane)
        return changed

    def _take_logits(self, decode: Sequence[Lane], plan: Plan, hidden: torch.Tensor, rows: Mapping[int, Row]) -> None:
        """Give each lane the logits after its last token, and each scored row those of its prompt."""
        wanted: list[tuple[Lane, int]] = list(zip(decode, range(len(decode)), strict=True))
        at = len(decode)
        for lane, tokens in plan.read:
            row = rows[id(lane)]
            if not row.told and lane is row.lanes[0]:
                self._tell(row, lane, hidden[at : at + tokens])
            if lane.unread == 0:
                wanted.append((lane, at + tokens - 1))
            at += tokens
        if wanted:
            logits = self._passes.logits(hidden[[place for _, place in wanted]], [lane for lane, _ in wanted])
            for (lane, _), after in zip(wanted, logits, strict=True):
                lane.logits = after

    def _tell(self, row: Row, lane: Lane, hidden: torch.Tensor) -> None:
        """The log probabilities of the prompt tokens that follow those just computed, as far as they are wanted."""
        assert lane.seat is not None
        start = lane.seat.tokens - len(hidden)
        skipped = max(0, row.told_from - start - 1)
        following = lane.ids[start + 1 + skipped : lane.seat.tokens + 1]
        if following:
            tops = [row.scored or 0] * len(following)
            part = hidden[skipped : skipped + len(following)]
            logits = self._passes.logits(part, [lane] * len(part))
            row.prompt_told += likelihoods(logits, following, tops)

    def _choose(self, rows: Sequence[Row]) -> None:
        """The next token of each row whose lanes all have logits."""
        for row in rows:
            if not row.read:
                row.read = True
                for lane in row.lanes:
                    assert lane.seat is not None
                    lane.seat.room.promote(lane.seat)
        answering = [row for row in rows if row.limit]
        if answering:
            logits = torch.stack([_together(row.lanes) for row in answering])
            sound = logits.amax(dim=-1).isfinite().tolist()
            choices = choose(logits, [row.chooser for row in answering])
            for row, choice, fine in zip(answering, choices, sound, strict=True):
                if fine:
                    row.push(choice, self._stop_ids)
                else:
                    row.error = _broken(row)
        for row in rows:
            if not row.limit:
                row.finish_reason = "length"
            if row.over:
                self._end(row)

    def _preempt(self, row: Row) -> None:
        """A row gives its memory up and will read its tokens again."""
        self._leave(row)
        row.restart()
        self.scheduler.preempt(row)

    def _end(self, row: Row) -> None:
        """The row is over."""
        if row.read and row.error is None:
            for lane in row.lanes:
                self._sharing.publish(lane)
        self.scheduler.finish(row)
        self._leave(row)
        self._release(row)

    def _leave(self, row: Row) -> None:
        for lane in row.lanes:
            if lane.seat:
                lane.seat.room.leave(lane.seat)
                lane.seat = lane.logits = None
                if lane.adapter:
                    self._adapters.release(lane.adapter)

    def _release(self, row: Row) -> None:
        for lane in row.lanes:
            if lane.adapter:
                self._adapters.done(lane.adapter)


def _together(lanes: Sequence[Lane]) -> torch.Tensor:
    """One lane's logits, or the mean of several lanes' log probabilities, `[vocabulary]`."""
    known = [lane.logits for lane in lanes if lane.logits is not None]
    if len(known) == 1:
        return known[0]
    return torch.stack(known).log_softmax(-1).mean(0)


def _broken(row: Row) -> IntegrityError:
    names = ", ".join(lane.adapter.name if lane.adapter else "the base" for lane in row.lanes)
    return IntegrityError("The model's logits are not finite.", where=names, remedy="Tune the adapter again.")


def _too_large(row: Row) -> ResourceExhausted:
    tokens = sum(len(lane.ids) for lane in row.lanes)
    return ResourceExhausted(
        f"The engine's memory has no room for an answer with {tokens} tokens so far.",
        remedy="Shorten the prompt, unpin adapters, or raise MOATELIER_ENGINE_MEMORY_GB.",
    )
