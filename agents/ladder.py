"""Which registered action comes next: rung by rung, on a rung by what has helped so far.

Each action's success rate against a symptom has a Beta prior of the weight of `PRIOR` trials, whose mean falls with
its place in `ACTIONS`. So neither one lucky trial nor one unlucky one turns the order of two neighbours; two or more
do. A trial counts by how likely it is that the action helped, not by whether the score happened to be higher.
"""

from collections.abc import Iterator, Mapping, Sequence

from agents.actions import ACTIONS, LEVELS, Action
from agents.shares import likely_better
from agents.trial import Trial, score_of
from moatelier.contracts import Contract, EvalReport, Finding, Level, Symptom, Tally, TaskPlan

PRIOR = 12.0
"""The weight of the order that was registered, in trials."""
FIRST, STEP = 0.6, 0.05
"""The prior mean of a rung's first action, and how much lower that of each further one is."""
MINOR = 0.5
"""A finding with less than this share of the first one's confidence is not acted upon."""

Tallies = Mapping[tuple[Symptom, str], Tally]


def tallies_of(found: Sequence[Tally]) -> Tallies:
    """Tallies by symptom and action."""
    return {(one.symptom, one.action): one for one in found}


def success(symptom: Symptom, action: str, place: int, tallies: Tallies) -> float:
    """The posterior mean of how often the action helps, for the place it has on its rung."""
    prior = FIRST - STEP * place
    known = tallies.get((symptom, action))
    if known is None:
        return prior
    return (PRIOR * prior + known.credit) / (PRIOR + known.tries)


def ordered(findings: Sequence[Finding], tallies: Tallies) -> Iterator[tuple[Finding, Action]]:
    """What to try, best first: rows and recipe for every finding, before search, method and base for any."""
    acted = [one for one in findings if one.confidence >= MINOR * findings[0].confidence]
    for rungs in (LEVELS[:2], *((level,) for level in LEVELS[2:])):
        for finding in acted:
            for level in rungs:
                yield from ((finding, action) for action in on_rung(finding.kind, level, tallies))


def on_rung(symptom: Symptom, level: Level, tallies: Tallies) -> list[Action]:
    """The actions of a rung against a symptom, most successful first."""
    actions = [action for action in ACTIONS[symptom] if action.level == level]
    rates = {action.name: success(symptom, action.name, place, tallies) for place, action in enumerate(actions)}
    return sorted(actions, key=lambda action: -rates[action.name])


class Effect(Contract):
    """What an action brought; the fields are those of a `LedgerEntry`."""

    measure: str
    before: float
    after: float
    credit: float


def effect(trials: Sequence[Trial], plan: TaskPlan, symptom: Symptom) -> Effect:
    """What the action brought that made the last trial: against the best one before it, on select rows.

    What was done about forgetting is measured on the retention suite, against the trial that had forgotten.

    Args:
        trials: All trials so far, oldest first; at least two.
        plan: The approved plan.
        symptom: Why the last one was made.
    """
    *earlier, last = trials
    metric = plan.goal.value.metric
    before = max(earlier, key=lambda trial: score_of(trial.select, metric))
    if symptom == "forgetting" and last.retention and (lost := next((t for t in earlier[::-1] if t.retention), None)):
        assert lost.retention is not None, "it was chosen by that"
        if told := _retained(lost.retention[1], last.retention[1]):
            return told
    now, then = last.select.metrics.get(metric), before.select.metrics.get(metric)
    credit = likely_better(now, then) if now and then else 0.0
    return Effect(
        measure=f"select {metric}",
        before=score_of(before.select, metric),
        after=score_of(last.select, metric),
        credit=credit,
    )


def _retained(before: EvalReport, after: EvalReport) -> Effect | None:
    for name in sorted(before.metrics.keys() & after.metrics.keys()):
        one, other = before.metrics[name], after.metrics[name]
        return Effect(
            measure=f"retention {name}", before=one.point, after=other.point, credit=likely_better(other, one)
        )
    if before.loss is None or after.loss is None:
        return None
    credit = float(after.loss < before.loss)
    return Effect(measure="retention log likelihood", before=-before.loss, after=-after.loss, credit=credit)
