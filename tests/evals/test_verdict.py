"""The rule of the gate in words and numbers."""

import pytest

from evals.mixture import Given, Outcome, table
from evals.scorers import compare
from evals.statistics import clopper_pearson, paired_rates
from evals.verdict import judge, judge_recipe, percent_down
from moatelier.contracts import EvalReport, Goal, MixtureTable, PairedComparison
from tests.evals import samples


def report(right: int, rows: int) -> EvalReport:
    metrics = {"accuracy": clopper_pearson(right, rows)}
    return EvalReport(subject="ours", split="test", rows=rows, kind="chat", metrics=metrics)


def against(wins: int, losses: int, rows: int, other: str = "champion") -> PairedComparison:
    return PairedComparison(
        other=other, difference=paired_rates(wins, losses, rows), p_value=1, wins=wins, losses=losses
    )


def test_a_point_above_the_goal_is_not_enough() -> None:
    verdict = judge(Goal(metric="accuracy", target=0.95), report(173, 180), None)
    assert not verdict.reached and not verdict.promoted
    assert "Accuracy is 96.1% on 180 locked rows and at least 91.2%" not in verdict.reason  # that would be at 95 %
    assert "with 99% confidence; the goal is 95.0%. The goal is not reached. 173 rows were right" in verdict.reason


def test_too_few_rows_are_named() -> None:
    verdict = judge(Goal(metric="accuracy", target=0.95), report(50, 50), None)
    assert "50 rows are too few to show it even if all were right." in verdict.reason


@pytest.mark.parametrize(
    ("wins", "losses", "rows", "promoted"),
    [(0, 0, 440, False), (30, 5, 440, True), (5, 30, 440, False), (24, 20, 440, False), (6, 0, 100, False)],
)
def test_only_what_is_shown_to_be_better_replaces_the_champion(
    wins: int, losses: int, rows: int, promoted: bool
) -> None:
    verdict = judge(Goal(metric="accuracy", target=0.5), report(rows - losses, rows), against(wins, losses, rows))
    assert verdict.reached and verdict.promoted is promoted
    assert ("a gain is shown" if promoted else "no gain is shown") in verdict.reason


def test_without_a_champion_the_base_is_the_bar() -> None:
    goal, ours = Goal(metric="accuracy", target=0.5), report(90, 100)
    assert judge(goal, ours, against(40, 5, 100, other="base")).promoted
    verdict = judge(goal, ours, against(5, 5, 100, other="base"))
    assert verdict.reached and not verdict.promoted
    assert "no gain is shown: +0.0 points on the base" in verdict.reason


def test_the_champion_is_not_worse_than_itself_on_few_rows() -> None:
    verdict = judge(Goal(metric="accuracy", target=0.5), report(100, 100), against(0, 0, 100, other="ours"))
    assert verdict.promoted


def test_bounds_are_rounded_down() -> None:
    assert percent_down(0.94996) == "94.9%"
    assert percent_down(0.95) == "95.0%"


def test_a_macro_f1_goal_is_judged_by_macro_f1() -> None:
    ours = samples.answers(right=0.97, seed=1)
    scored = samples.eval_report(samples.CANDIDATE, "test", ours)
    compared = compare("macro_f1", "classification", samples.LABELS, "base", ours, samples.answers(right=0.1, seed=2))
    verdict = judge(Goal(metric="macro_f1", target=0.85), scored, compared)
    assert verdict.promoted and verdict.reason.startswith("Macro-F1 is ")


def recipe_table(recipe: str, routed: str, *, router: bool = True) -> MixtureTable:
    """The table of a recipe that is right on the rows with a 1, beside routing that is right on its own."""
    rows = []
    for number, (ours, theirs) in enumerate(zip(recipe, routed, strict=True)):
        truth = f"yes {number}"  # each row another, or always the commonest would be right
        single = Given(truth if theirs == "1" else "no")
        answer = Given(truth if ours == "1" else "no")
        rows.append(
            Outcome(str(number), str(number), truth, {"a": single}, {"a": single}, answer, single if router else None)
        )
    return table(rows)


def test_a_recipe_that_is_truly_better_goes_live() -> None:
    verdict = judge_recipe(recipe_table("1" * 90 + "0" * 10, "1" * 70 + "0" * 30))
    assert verdict.promoted
    assert "right on 90.0% of 100 held-out rows, the router's own choice on 70.0%" in verdict.reason
    assert "a gain of +20.0 points, at least +11.9 points with 99% confidence. It may answer." in verdict.reason


def test_an_equal_recipe_does_not_go_live() -> None:
    same = "1" * 250 + "0" * 50
    verdict = judge_recipe(recipe_table(same, same))
    assert not verdict.promoted and "gain of +0.0 points, at least -" in verdict.reason
    shuffled = judge_recipe(recipe_table("1" * 250 + "0" * 50, "0" * 50 + "1" * 250))
    assert not shuffled.promoted


def test_a_gain_that_luck_could_bring_is_not_enough() -> None:
    verdict = judge_recipe(recipe_table("1" * 83 + "0" * 17, "1" * 80 + "0" * 20, router=False))
    assert not verdict.promoted
    assert "its best single model, a, on 80.0%: a gain of +3.0 points, at least -3.2 points" in verdict.reason


@pytest.mark.parametrize(("low", "live"), [(-1e-9, False), (0.0, True)])
def test_a_bound_of_zero_is_not_below_zero(low: float, live: bool) -> None:
    made = recipe_table("1" * 90 + "0" * 10, "1" * 70 + "0" * 30)
    gap = made.gain.difference.model_copy(update={"claim_low": low})
    assert (
        judge_recipe(made.model_copy(update={"gain": made.gain.model_copy(update={"difference": gap})})).promoted
        is live
    )
