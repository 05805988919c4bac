"""Rollouts are looked after: evidence is gathered, the agent asked, its decision carried out and told.

The worker's sweeper calls `look_after`; whoever dies in between, the next sweep decides on the same evidence. The words
and answers of a rollout are weighed by a game that may be looked at at any time (evals/sequential.py).
"""

import logging

from agents import rollout as agent
from evals import sequential
from evals.statistics import ALPHA
from graphs import metrics
from moatelier.contracts import Compared, Event, Measure, RolloutEvidence, RolloutVerdict, now
from moatelier.errors import Conflict, MoatelierError
from store import adapters, alerts, events, feedback, observations, rollouts
from store.rollouts import Rollout

STREAM = "inference"
"""The stream of events that belong to no conversation."""
ACTOR = "rollout"
MEASURES: tuple[Measure, ...] = ("liked", "answered")
log = logging.getLogger("moatelier.worker")


def look_after(looked: dict[str, object] | None = None) -> int:
    """Decide about each open rollout of all projects; how many moved. For the sweeper.

    Args:
        looked: Rollout -> what its last decision rested on; where nothing is new, it is not decided about again.
    """
    looked = {} if looked is None else looked
    moved = 0
    for rollout in rollouts.all_open():
        try:
            if (news := _news(rollout)) != looked.get(rollout.id):
                moved += decide(rollout).move != "wait"
                looked[rollout.id] = news
        except MoatelierError:
            log.exception("rollout %s could not be decided about; the next sweep tries again", rollout.id)
    for rollout in rollouts.untold():
        _tell(rollout)
    return moved


def _news(rollout: Rollout) -> tuple[object, ...]:
    """What a decision rests on, cheaply: while it stays as it was, so does the decision."""
    over = (now() - rollout.created_at).total_seconds() / 86400 >= rollout.plan.days
    said = feedback.newest(rollout.id)
    return observations.newest(rollout.id), said, adapters.alias_of(rollout.project, rollout.alias), rollout.state, over


def decide(rollout: Rollout) -> RolloutVerdict:
    """Gather what is known of a rollout, and do what follows from it."""
    evidence = gather(rollout)
    verdict = agent.decide(evidence)
    told = evidence.model_dump(mode="json", exclude={"days"})
    if verdict.move == "wait":
        rollouts.note(rollout.id, told, verdict.reason)
        return verdict
    rollouts.note(rollout.id, told, rollout.reason)
    try:
        rollouts.move(rollout.project, rollout.id, verdict.move, verdict.reason, actor=ACTOR)
    except Conflict as error:  # a person moved the alias between evidence and decision
        verdict = RolloutVerdict(move="stop", reason=str(error))
        rollouts.move(rollout.project, rollout.id, "stop", verdict.reason, actor=ACTOR)
    return verdict


def gather(rollout: Rollout) -> RolloutEvidence:
    """What is known of a rollout now."""
    seen = observations.of_rollout(rollout.project, rollout.id)
    said = feedback.words_of(rollout.project, rollout.id)
    # Of each side its own subjects: one client that fails again and again says no more than one that fails five times.
    heard = feedback.first_of_each(seen, lambda one: (one.subject, one.side, one.shadow))
    games = {
        "liked": [(word.side == "challenger", word.good) for word in said],
        "answered": [(one.side == "challenger", float(one.good)) for one in heard],
    }
    compared = tuple(_compared(measure, games[measure], rollout.plan.least) for measure in MEASURES)
    return RolloutEvidence(
        plan=rollout.plan,
        state=rollout.state,
        compared=compared,
        shadowed=sum(one.shadow for one in seen),
        days=(now() - rollout.created_at).total_seconds() / 86400,
        champion=adapters.alias_of(rollout.project, rollout.alias) == (rollout.champion, rollout.fence),
    )


def _compared(measure: Measure, words: list[tuple[bool, float]], least: int) -> Compared:
    # Either measure may end the rollout, so each has half of the chance of ending one that is as good.
    found = sequential.compare(words, alpha=ALPHA / len(MEASURES), least=least)
    return Compared(
        measure=measure,
        challenger=found.ours,
        champion=found.theirs,
        gain=round(found.gain, 4),
        lower=round(found.lower, 4),
        upper=round(found.upper, 4),
    )


def _tell(rollout: Rollout) -> None:
    """An event for each state, and an alert when something was rolled back. Whoever is killed here tells it again."""
    metrics.ROLLOUTS.labels(rollout.state).inc()
    body = {"rollout": rollout.id, "alias": rollout.alias, "state": rollout.state, "reason": rollout.reason}
    body |= {"champion": rollout.champion, "challenger": rollout.challenger}
    job = f"{rollout.id}/{rollout.state}"
    events.append([Event(project=rollout.project, stream=STREAM, job=job, kind="rollout", body=body)])
    log.warning("rollout %s of %s: %s. %s", rollout.id, rollout.alias, rollout.state, rollout.reason)
    if rollout.state == "rolled_back":
        alerts.raise_once(rollout.project, "rollout", rollout.alias, rollout.reason, body, about=rollout.id)
    rollouts.told(rollout.id, rollout.state)
