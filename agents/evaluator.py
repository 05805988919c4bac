"""The evaluator: what a trial's curves, scores and answers say about it. It sees dev rows' results and select scores.

A finding that another one would bring about counts half: labels that are wrong keep the loss up, an answer that is
not learnt yet has no end. The findings themselves are in `agents.curves`, `agents.mistakes` and `agents.gaps`.
"""

from collections.abc import Mapping, Sequence

from agents import curves, gaps, mistakes
from agents.trial import Evidence, Trial, score_of
from moatelier.contracts import Diagnosis, Finding, Symptom, TaskPlan

__all__ = ["diagnose", "score_of"]

EXPLAINS: Mapping[Symptom, frozenset[Symptom]] = {
    "divergence": frozenset(
        {"data_fault", "underfit", "overfit", "class_confusion", "format_errors", "never_stops", "plateau"}
    ),
    "underfit": frozenset({"class_confusion", "format_errors", "never_stops", "plateau"}),
    "data_fault": frozenset({"underfit", "overfit", "plateau"}),
    "class_confusion": frozenset({"overfit", "plateau"}),
    "preference_gap": frozenset({"overfit", "plateau"}),
    "never_stops": frozenset({"format_errors", "class_confusion"}),
    "overfit": frozenset({"class_confusion", "plateau"}),
    "forgetting": frozenset({"plateau"}),
}
"""Cause -> the findings that it alone would bring about."""
CERTAIN = 0.6
"""Causes below this confidence explain nothing."""


def diagnose(trials: Sequence[Trial], plan: TaskPlan, evidence: Evidence | None = None) -> Diagnosis:
    """Diagnose the last trial in the light of the earlier ones.

    Args:
        trials: All trials so far, oldest first; at least one.
        plan: The approved plan; its goal's metric is looked at.
        evidence: What else is known of the last trial.

    Returns:
        The findings, the one to act upon first; `healthy` when nothing is wrong.
    """
    *earlier, trial = trials
    known, metric = evidence or Evidence(), plan.goal.value.metric
    found = (
        curves.broken(trial),
        curves.diverged(trial),
        curves.overfit(trial),
        curves.underfit(trial, score_of(trial.dev, metric), known.rows),
        mistakes.never_stops(trial),
        mistakes.format_errors(trial, known),
        mistakes.doubtful(trial, known),
        mistakes.shifted(trial, metric),
        mistakes.confused(trial),
        gaps.preferences(trial, plan),
        gaps.forgotten(trial),
        gaps.plateau(trial, earlier, metric),
    )
    findings = _weighed([finding for finding in found if finding is not None])
    if not findings:
        score = score_of(trial.select, metric)
        text = f"Nothing looks wrong; select {metric} is {score:.3f}."
        ids = trial.told_by("select")
        findings = [Finding(kind="healthy", confidence=0.8, evidence={"select": score}, text=text, ids=ids)]
    return Diagnosis(trial=len(earlier), findings=tuple(findings))


def _weighed(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, surest first, one of each kind; what another one explains counts half."""
    by_kind: dict[Symptom, Finding] = {}
    for finding in findings:
        if finding.kind not in by_kind or finding.confidence > by_kind[finding.kind].confidence:
            by_kind[finding.kind] = finding
    causes = [kind for kind, finding in by_kind.items() if finding.confidence >= CERTAIN]
    explained = frozenset[Symptom]().union(*(EXPLAINS.get(kind, frozenset()) for kind in causes))
    weighed = [
        finding.model_copy(update={"confidence": finding.confidence / 2}) if finding.kind in explained else finding
        for finding in by_kind.values()
    ]
    return sorted(weighed, key=lambda finding: -finding.confidence)
