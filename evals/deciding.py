"""The gate's decision, from everybody's answers. Pure, so that simulations can run it and anybody can make it again.

What a decision was made of is kept in the vault as a `GateEvidence` and named by its digest in the signed record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, TypeAdapter

from evals.answered import Answered, Scores
from evals.conditions import judge_all
from evals.scorers import compare, score
from evals.statistics import CLAIM_ALPHA, LOOKS
from evals.verdict import NO_CHAMPION, judge
from moatelier.contracts import Contract, DatasetCard, EvalReport, GateDecision, GateSpec, PairedComparison, SplitName
from moatelier.contracts.suites import Condition, SuiteResult

BASE, BLIND = "base", "blind"
"""The subjects of reports on the base itself, and on the candidate that is shown nothing: what the words of the
questions alone tell."""
_ANSWERS: TypeAdapter[dict[str, dict[str, Answered]]] = TypeAdapter(dict[str, dict[str, Answered]])


class GateEvidence(Contract):
    """What a decision was made of, whole: the same evidence gives the same decision, bit by bit.

    Attributes:
        gate: What was to be decided.
        look: Which look at the locked rows it was.
        answered: Subject -> row -> the fields of an `Answered`.
        seconds: Subject -> what answering took.
        alone: Why there is no champion.
        suites: Suite -> subject -> result.
        paces: Subject -> seconds of equal work; empty where it was not measured.
        bundle_bytes: What the candidate's bundle takes.
    """

    gate: GateSpec
    look: int
    answered: dict[str, dict[str, dict[str, object]]]
    seconds: dict[str, float]
    alone: str
    suites: dict[str, dict[str, SuiteResult]] = Field(default_factory=dict)
    paces: dict[str, float] = Field(default_factory=dict)
    bundle_bytes: int = 0


def evident(answered: Mapping[str, Mapping[str, Answered]]) -> dict[str, dict[str, dict[str, object]]]:
    """Answers as a `GateEvidence` holds them."""
    held: dict[str, dict[str, dict[str, object]]] = _ANSWERS.dump_python(
        {subject: dict(rows) for subject, rows in answered.items()}, mode="json"
    )
    return held


def decided(evidence: GateEvidence, card: DatasetCard) -> GateDecision:
    """The decision that the evidence amounts to; `card` is that of the dataset it is about."""
    gate, answered = evidence.gate, _ANSWERS.validate_python(evidence.answered)
    reports = {
        subject: report(
            card,
            subject,
            "test",
            score(card.kind, card.labels, list(rows.values()), seed=gate.seed),
            rows=len(rows),
            seconds=evidence.seconds[subject],
        )
        for subject, rows in answered.items()
    }
    conditions: Sequence[Condition] = ()
    if gate.conditions is not None:
        conditions = judge_all(gate.conditions, evidence.suites, evidence.paces, evidence.bundle_bytes, gate.candidate)
    return decide(
        gate,
        card,
        evidence.look,
        answered,
        reports,
        evidence.alone,
        conditions=conditions,
        evidence=evidence.digest,
    )


def report(
    card: DatasetCard, subject: str, split: SplitName, scores: Scores, *, rows: int, seconds: float, **more: Any
) -> EvalReport:
    """Scores as an `EvalReport`; `more` holds its fields `loss` and `predictions`."""
    return EvalReport(
        subject=subject,
        split=split,
        rows=rows,
        kind=card.kind,
        metrics=scores.metrics,
        per_class=scores.per_class,
        confusion=scores.confusion,
        natural_stop_rate=scores.natural_stop_rate,
        format_error_rate=scores.format_error_rate,
        seconds=round(seconds, 3),
        **more,
    )


def decide(
    gate: GateSpec,
    card: DatasetCard,
    look: int,
    answered: Mapping[str, Mapping[str, Answered]],
    reports: Mapping[str, EvalReport],
    alone: str = NO_CHAMPION,
    *,
    conditions: Sequence[Condition] = (),
    evidence: str | None = None,
) -> GateDecision:
    """The decision from everybody's answers: pure, so that simulations can run it.

    Args:
        gate: What is decided.
        card: The dataset.
        look: Which look at the locked rows this is.
        answered: Answers by row id, by subject (`base` and bundle digests). The champion may lack rows, or be absent.
        reports: Their reports.
        alone: Why the champion is absent.
        conditions: What was demanded beside goal and gain, as it was found.
        evidence: Digest of what all this was made of.
    """

    def against(other: str) -> PairedComparison:
        theirs = answered[other]
        ours = [answered[gate.candidate][row] for row in theirs]
        return compare(gate.goal.metric, card.kind, card.labels, other, ours, list(theirs.values()), seed=gate.seed)

    against_champion = against(gate.champion) if gate.champion and gate.champion in answered else None
    against_base = against(BASE)
    bar = against_champion or (against_base if gate.goal.target else None)
    verdict = judge(gate.goal, reports[gate.candidate], bar, alone)
    failed = [each for each in conditions if not each.held]
    return GateDecision(
        task=gate.task,
        candidate=gate.candidate,
        champion=gate.champion,
        locked=card.locked,
        look=look,
        looks_allowed=LOOKS,
        alpha=CLAIM_ALPHA,
        goal=gate.goal,
        candidate_report=reports[gate.candidate],
        base_report=reports[BASE],
        champion_report=reports.get(gate.champion) if gate.champion else None,
        blind_report=reports.get(BLIND),
        against_base=against_base,
        against_champion=against_champion,
        conditions=tuple(conditions),
        evidence=evidence,
        reached=verdict.reached,
        promoted=verdict.promoted and not failed,
        reason=f"{verdict.reason}{''.join(f' {each.name.capitalize()}: {each.text}' for each in failed)}",
    )
