"""A search's next move: begin a trial, have a better one go on, score the best, or stop.

Successive halving (Jamieson and Talwalkar, 2016; Li et al., 2018): every trial is trained until it has seen as many
rows as the first rung asks, the best third by dev loss goes on from its checkpoint to the next rung, and so on to the
end. Select scores, of which there should be few looks, are for those alone that came to the end.

All moves follow from the legs so far and what they took, never from a clock, so that a move decided again after a
crash is the same. The time budget is hard: a trial begins only if it and the rest of the halving still fit.
"""

import math
from collections.abc import Sequence

from agents.rungs import ETA, LOADING_S, Searched, rungs_of, spec_of, steps_of, told
from agents.sampling import Tried, Values, draw
from agents.trainer import ALL_LAYERS_COST, Stop
from moatelier.contracts import Contract, Leg, TrainSpec
from moatelier.contracts.search import CHOICES, LIMITS

HOPELESS = 3
"""When so many trials failed and none did not, it is not their settings."""
WORTH = 0.25
"""A leg that does not fit is cut short if at least this share of it does."""


class Train(Contract):
    """Run this leg."""

    leg: Leg
    reason: str


class Score(Contract):
    """Score what this leg made on dev and select rows."""

    leg: Leg
    reason: str


Move = Train | Score | Stop


def next_move(about: Searched, legs: Sequence[Leg], scored: Sequence[str]) -> Move:
    """What to do next.

    Args:
        about: The search.
        legs: All that ran, oldest first.
        scored: Digests of the bundles that were scored.
    """
    if len(legs) >= HOPELESS and not any(leg.result for leg in legs):
        return Stop(reason=f"The first {len(legs)} trials failed. {legs[-1].error}")
    ranked = _Standing(about, legs)
    move = (None if scored else ranked.next_leg()) or ranked.unscored(scored)
    return move or Stop(reason=ranked.ended())


def spent(legs: Sequence[Leg]) -> float:
    """Seconds of the budget that are used."""
    return sum(leg.seconds for leg in legs)


def measured(leg: Leg, before: Leg | None) -> float:
    """What a leg took: the training that is new in it, and starting its job."""
    assert leg.result is not None, "a failed leg has taken what was forecast"
    earlier = before.result.seconds if before and before.result else 0.0
    return max(leg.result.seconds - earlier, 0.0) + leg.result.loading_seconds


def before(leg: Leg, legs: Sequence[Leg]) -> Leg | None:
    """The leg that another goes on from."""
    return next((each for each in legs if each.key == leg.spec.goes_on), None) if leg.spec.goes_on else None


def done_with(about: Searched, legs: Sequence[Leg]) -> frozenset[int]:
    """Trials that will never go on, whatever comes: their checkpoints can go."""
    return _Standing(about, legs).out()


class _Standing:
    """Who is how far, and who is better."""

    def __init__(self, about: Searched, legs: Sequence[Leg]) -> None:
        self._about, self._legs = about, legs
        self._rungs = rungs_of(about)
        self._left = about.seconds - spent(legs)
        self._loading = max((leg.result.loading_seconds for leg in legs if leg.result), default=LOADING_S)
        self._row_seconds = self._pace()

    # ------------------------------------------------------------ moves

    def next_leg(self) -> Train | None:
        """The next training, if one is left that fits."""
        if self._cut:
            return None
        if not any(leg.rung for leg in self._legs) and (move := self._begin()):
            return move
        for rung in range(1, len(self._rungs)):
            for leg in self._chosen(rung):
                if leg.rung < rung and not _whole(leg):
                    return self._go_on(leg, rung)
        return None

    def unscored(self, scored: Sequence[str]) -> Score | None:
        """The best one that has no select score yet, of those that came as far as any."""
        for leg in self._last():
            assert leg.result is not None
            if leg.result.bundle not in scored:
                why = (
                    f"Trial {leg.trial + 1} came to the end ({told(leg.values)}, dev loss {loss_of(leg):.4g}): scored."
                )
                return Score(leg=leg, reason=why)
        return None

    def ended(self) -> str:
        """How the search went, in a sentence."""
        begun, last = self._begun, self._last()
        short = begun < min(self._about.trials, self._about.search.combinations)
        why = " No other one fitted into the time." if short else ""
        best = f" By dev loss the best is trial {last[0].trial + 1}: {told(last[0].values)}." if last else ""
        return (
            f"Searched {begun} of {self._about.search.combinations} settings by {self._about.search.by}, "
            f"{len(last)} to the end, in {spent(self._legs):.0f} s of {self._about.seconds:.0f} s.{why}{best}"
        )

    def out(self) -> frozenset[int]:
        """Trials that cannot go on any more."""
        return frozenset(leg.trial for leg in self._legs) - {leg.trial for leg in self._live()}

    def _live(self) -> list[Leg]:
        if not any(leg.rung for leg in self._legs):
            return self._ranked(self._reached(0))[: math.ceil(self._about.trials / ETA)]
        for rung in range(1, len(self._rungs)):
            chosen = self._chosen(rung)
            if any(leg.rung < rung and not _whole(leg) for leg in chosen):
                return chosen
        return []

    def _begin(self) -> Train | None:
        if self._begun >= self._about.trials:
            return None
        tried = [Tried(leg.values, loss_of(leg) if leg.result else None) for leg in self._legs if leg.rung == 0]
        usual = {name: getattr(self._about.usual, name) for name in (*LIMITS, *CHOICES)}
        values = draw(self._about.search, usual, tried, self._about.trials, self._about.usual.seed)
        if values is None:
            return None
        spec = spec_of(self._about.usual, values)
        steps = self._steps(spec, 0)
        seconds = self._forecast(spec, steps)
        if self._begun and seconds + self._rest(self._begun + 1) > self._left:
            return None
        leg = self._leg(self._begun, 0, values, spec, steps, None, seconds)
        return Train(
            leg=leg, reason=f"Trial {self._begun + 1} of {self._about.trials}: {told(values)}; {self._way(leg)}"
        )

    def _go_on(self, leg: Leg, rung: int) -> Train | None:
        assert leg.result is not None
        steps, done = self._steps(leg.spec, rung), leg.result.steps
        fit = int((self._left - self._loading) / max(self._step_seconds(leg.spec), 1e-9))
        if steps - done > fit:
            if fit < WORTH * (steps - done) or fit < 1:
                return None
            steps = done + fit
        seconds = self._forecast(leg.spec, steps - done)
        further = self._leg(leg.trial, rung, leg.values, leg.spec, steps, leg, seconds)
        why = f"Trial {leg.trial + 1} is among the best by dev loss ({loss_of(leg):.4g}): {self._way(further)}"
        return Train(leg=further, reason=why)

    def _leg(
        self, trial: int, rung: int, values: Values, spec: TrainSpec, steps: int, earlier: Leg | None, seconds: float
    ) -> Leg:
        used = earlier.result.seconds if earlier and earlier.result else 0.0
        limits = {
            "max_seconds": round(max(used + self._left - self._loading, used + 1.0), 1),
            "until_steps": steps if steps < steps_of(spec, self._about.rows) else None,
            "goes_on": earlier.key if earlier else None,
        }
        return Leg(
            trial=trial, rung=rung, values=values, spec=spec.model_copy(update=limits), seconds=round(seconds, 1)
        )

    def _way(self, leg: Leg) -> str:
        whole = steps_of(leg.spec, self._about.rows)
        return (
            f"to step {leg.spec.until_steps or whole} of {whole}, about {leg.seconds:.0f} s "
            f"of the {max(self._left, 0):.0f} s left."
        )

    # ------------------------------------------------------------ who is how far

    @property
    def _begun(self) -> int:
        return sum(leg.rung == 0 for leg in self._legs)

    @property
    def _cut(self) -> bool:
        """A leg ran into the time limit, or was cut short to fit: there is no time left."""
        for leg in self._legs:
            wanted = self._steps(leg.spec, leg.rung)
            if leg.result and (leg.result.stopped == "out_of_time" or (leg.spec.until_steps or wanted) < wanted):
                return True
        return False

    def _failed(self, trial: int) -> bool:
        return any(leg.error for leg in self._legs if leg.trial == trial)

    def _reached(self, rung: int) -> list[Leg]:
        """The legs of this rung that came to their end."""
        return [leg for leg in self._legs if leg.rung == rung and leg.result]

    def _ranked(self, legs: Sequence[Leg]) -> list[Leg]:
        return sorted(legs, key=lambda leg: (loss_of(leg), leg.trial))

    def _chosen(self, rung: int) -> list[Leg]:
        """Each trial that may be at this rung, best first as the rung before it saw them, by its latest leg."""
        standing = self._reached(0)
        for height in range(1, rung + 1):
            ranked = self._ranked(standing)
            kept = ranked[: math.ceil(len(ranked) / ETA)]
            standing = [self._latest(leg, height) for leg in kept if not self._failed(leg.trial)]
        return standing

    def _latest(self, leg: Leg, rung: int) -> Leg:
        later = [each for each in self._legs if each.trial == leg.trial and each.rung <= rung and each.result]
        return later[-1] if later else leg

    def _last(self) -> list[Leg]:
        """Those that came as far as any, best first."""
        finalists = self._chosen(len(self._rungs) - 1)
        whole = [leg for leg in finalists if _whole(leg)]
        if whole:
            return self._ranked(whole)
        far = max((leg.rung for leg in self._legs if leg.result), default=0)
        return self._ranked(self._reached(far))[:1]

    # ------------------------------------------------------------ time

    def _steps(self, spec: TrainSpec, rung: int) -> int:
        """Steps that bring a trial to a rung; to the last one all, since an epoch's last batch may be smaller."""
        whole = steps_of(spec, self._about.rows)
        return whole if rung == len(self._rungs) - 1 else min(math.ceil(self._rungs[rung] / spec.batch_rows), whole)

    def _pace(self) -> float:
        """Seconds a row through the top third of the layers, as measured, else the probe's.

        The lower median: the first leg also fills the cache of the frozen layers, for all of them.
        """
        seen = []
        for leg in self._legs:
            earlier = before(leg, self._legs)
            steps = leg.result.steps - (earlier.result.steps if earlier and earlier.result else 0) if leg.result else 0
            if leg.result and steps:
                taken = leg.seconds - leg.result.loading_seconds
                seen.append(taken / (steps * leg.spec.batch_rows * _cost(leg.spec)))
        return sorted(seen)[(len(seen) - 1) // 2] if seen else self._about.row_seconds

    def _step_seconds(self, spec: TrainSpec) -> float:
        return spec.batch_rows * _cost(spec) * self._row_seconds

    def _forecast(self, spec: TrainSpec, steps: int) -> float:
        return self._loading + steps * self._step_seconds(spec)

    def _rest(self, trials: int) -> float:
        """What it takes to bring so many trials from the first rung to the end, as dear as the dearest so far."""
        dearest = max((_cost(leg.spec) for leg in self._legs), default=1.0)
        seconds = 0.0
        for height in range(1, len(self._rungs)):
            trials = math.ceil(trials / ETA)
            rows = self._rungs[height] - self._rungs[height - 1]
            seconds += trials * (self._loading + rows * dearest * self._row_seconds)
        return seconds


def loss_of(leg: Leg) -> float:
    """What trials are compared by while they are trained: the loss on dev rows, or on training rows without any."""
    assert leg.result is not None, "only legs that ended are compared"
    return leg.result.train_loss if leg.result.dev_loss is None else leg.result.dev_loss


def _whole(leg: Leg) -> bool:
    return leg.result is not None and leg.result.stopped == "finished"


def _cost(spec: TrainSpec) -> float:
    return ALL_LAYERS_COST if spec.layers == "all" else 1.0
