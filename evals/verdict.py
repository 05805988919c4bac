"""The rule of the gate, and the words of its claim. Imports no torch: reports and simulations use it too."""

from dataclasses import dataclass
from math import floor

from evals.statistics import CLAIM_ALPHA, required_correct
from moatelier.contracts import EvalReport, Goal, MixtureTable, PairedComparison

NO_CHAMPION = "there is no champion to compare with"

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "exact_match": "Exact match",
    "word_accuracy": "Word accuracy",
    "recall_at_1": "Recall@1",
    "recall_at_5": "Recall@5",
    "preference_accuracy": "Preference accuracy",
}


@dataclass(frozen=True)
class Verdict:
    """What the numbers amount to."""

    reached: bool
    promoted: bool
    reason: str


def judge(goal: Goal, candidate: EvalReport, bar: PairedComparison | None, alone: str = NO_CHAMPION) -> Verdict:
    """The rule: reached by the lower bound, and a gain on the bar that is above zero at its lower bound.

    Equal adapters change places on luck alone, so what is merely not worse stays where it is.

    Args:
        goal: What was to be reached.
        candidate: Its report on the locked rows.
        bar: The candidate against the champion, or against the base where there is no champion. None: nothing is
            claimed, and nothing stands in its place.
        alone: Why there is no comparison with a champion when there is none.
    """
    reached = candidate.metrics[goal.metric].claim_low >= goal.target
    claim = claim_text(goal, candidate)
    if not reached:
        return Verdict(False, False, f"{claim} The goal is not reached.{_needed(goal, candidate)}")
    if bar is None:
        return Verdict(True, True, f"{claim} The goal is reached; {alone}.")
    if bar.other == candidate.subject:
        return Verdict(True, True, f"{claim} The goal is reached by the champion itself.")
    named = "the base" if bar.other == "base" else "the champion"
    told = f"; {alone}" if bar.other == "base" else ""
    gap = bar.difference
    compared = f"{points(gap.point)} on {named}, at least {points(floor(1000 * gap.claim_low) / 1000)}"
    if gap.claim_low > 0:
        return Verdict(True, True, f"{claim} The goal is reached, and a gain is shown: {compared}{told}.")
    return Verdict(True, False, f"{claim} The goal is reached, but no gain is shown: {compared}{told}.")


def judge_recipe(table: MixtureTable) -> Verdict:
    """The rule of recipes: live only if the gain over routing to one is not below zero at its lower bound.

    An equal recipe costs more and gains nothing, and few rows cannot show it to be no worse: it does not go live.
    """
    gap, other = table.gain.difference, table.gain.other
    against = {
        "router": "the router's own choice",
        "hindsight": f"its best single model, {other},",
        "commonest": "whoever always gives the commonest answer",
    }[table.routed_by]
    claim = (
        f"The recipe is right on {table.recipe.right.point:.1%} of {table.rows} held-out rows, {against} on "
        f"{table.routed.right.point:.1%}: a gain of {points(gap.point)}, at least "
        f"{points(floor(1000 * gap.claim_low) / 1000)} with {1 - CLAIM_ALPHA:.0%} confidence."
    )
    if gap.claim_low >= 0:
        return Verdict(True, True, f"{claim} It may answer.")
    return Verdict(False, False, f"{claim} It is not shown to be worth its calls and does not answer.")


def claim_text(goal: Goal, report_: EvalReport) -> str:
    """The claim in a sentence: point and lower bound, the confidence of the bound, the rows it rests on, the goal."""
    metric = report_.metrics[goal.metric]
    return (
        f"{METRIC_NAMES[goal.metric]} is {metric.point:.1%} on {report_.rows} locked rows and at least "
        f"{percent_down(metric.claim_low)} with {1 - CLAIM_ALPHA:.0%} confidence; the goal is {goal.target:.1%}."
    )


def _needed(goal: Goal, candidate: EvalReport) -> str:
    if goal.metric in ("macro_f1", "word_accuracy", "recall_at_1", "recall_at_5"):
        return ""
    needed = required_correct(candidate.rows, goal.target)
    if needed is None:
        return f" {candidate.rows} rows are too few to show it even if all were right."
    right = round(candidate.metrics[goal.metric].point * candidate.rows)
    return f" {right} rows were right; {needed} have to be."


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f} points"


def percent_down(share: float) -> str:
    """A lower bound in per cent, rounded down: 94.96 % must not read as 95.0 %."""
    return f"{floor(1000 * share) / 1000:.1%}"
