"""Whether a challenger goes on, takes the champion's place, or is rolled back."""

from collections.abc import Mapping

from moatelier.contracts import Compared, Measure, RolloutEvidence, RolloutVerdict

NAMES: Mapping[Measure, str] = {"liked": "liking", "answered": "answers without a failure"}


def decide(evidence: RolloutEvidence) -> RolloutVerdict:
    """Decide on what the always-valid bounds say now; it may be asked as often as anybody likes.

    Worse on any measure ends it. Better, or worse by less than the margin, on the measures that the plan asks for
    promotes. In the shadow nothing is promoted: nobody has seen its answers yet.
    """
    if not evidence.champion:
        return RolloutVerdict(move="stop", reason="The alias was moved by another decision meanwhile.")
    for found in evidence.compared:
        if found.upper < 0:
            return RolloutVerdict(move="roll_back", reason=f"The challenger is worse: {told(found)}.")
    if evidence.days >= evidence.plan.days:
        reason = f"Nothing was shown within {evidence.plan.days:g} days, so the champion stays."
        return RolloutVerdict(move="roll_back", reason=reason)
    if evidence.state == "shadow":
        return _after_shadow(evidence)
    return _after_canary(evidence)


def _after_shadow(evidence: RolloutEvidence) -> RolloutVerdict:
    asked = evidence.plan.shadow
    if evidence.shadowed < asked:
        return RolloutVerdict(move="wait", reason=f"{evidence.shadowed} of {asked} requests were answered unseen.")
    reason = f"{evidence.shadowed} requests were answered unseen, and it was not shown to be worse."
    return RolloutVerdict(move="canary", reason=reason)


def _after_canary(evidence: RolloutEvidence) -> RolloutVerdict:
    plan, known = evidence.plan, {found.measure: found for found in evidence.compared}
    wanted: tuple[Measure, ...] = ("liked", "answered") if plan.watch == "liked" else ("answered",)
    for measure in wanted:
        found = known.get(measure)
        if found is None or found.lower <= -plan.margin:
            so_far = f": {told(found)}" if found else ""
            return RolloutVerdict(move="wait", reason=f"Not shown yet by {NAMES[measure]}{so_far}.")
    reasons = "; ".join(told(known[measure]) for measure in wanted)
    return RolloutVerdict(move="promote", reason=f"Not worse by {100 * plan.margin:g} points or more: {reasons}.")


def told(found: Compared) -> str:
    """A comparison in words."""
    return (
        f"{NAMES[found.measure]} {100 * found.gain:+.1f} points, surely between {100 * found.lower:+.1f} and "
        f"{100 * found.upper:+.1f} ({found.challenger} of the challenger, {found.champion} of the champion)"
    )
