import pytest

from agents.bases import Candidate, choose, rank, unfit
from tests.agents.scenes import planned

PLAN = planned("accuracy of 95%, 20 minutes, 5 trials")
NAMED = planned("accuracy of 95%, 20 minutes, 5 trials, use base tiny")


def base(name: str, loss: float | None = 1.0, score: float = 0.5, **fields: object) -> Candidate:
    values = {"base": name, "licence": "MIT", "zero_shot": score, "loss": loss, "rows": 64, "seconds": 60.0}
    return Candidate.model_validate(values | {"peak_bytes": 10**9} | fields)


def ranked(*found: Candidate) -> tuple[Candidate, ...]:
    return rank(found, budget_s=600, room_bytes=4 * 10**9)


def test_the_lowest_loss_is_first_and_what_misses_a_bound_last() -> None:
    table = ranked(
        base("slow", 0.1, seconds=700.0), base("b", 0.8), base("big", 0.1, peak_bytes=5 * 10**9), base("a", 0.9)
    )
    assert [each.base for each in table] == ["b", "a", "slow", "big"]
    assert [each.place for each in table] == [1, 2, None, None]
    assert "700 s" in table[2].refused and "5.0 GB" in table[3].refused


def test_of_equal_losses_the_better_score_then_the_faster_is_first() -> None:
    found = [base("slow", score=0.9, seconds=90.0), base("worse", score=0.4), base("fast", score=0.9, seconds=30.0)]
    assert [each.base for each in ranked(*found)] == ["fast", "slow", "worse"]


def test_a_clearly_better_base_is_chosen_with_the_figures() -> None:
    plan = choose(PLAN, ranked(base("own", 1.0, 0.4), base("other", 0.8, 0.7)), "own")
    assert plan.base.value == "other" and plan.base.source == "inferred"
    for part in ("other", "own", "70%", "40%", "0.800", "1.000", "60 s"):
        assert part in plan.base.reason


def test_a_little_better_is_not_enough_to_leave_the_own_base() -> None:
    plan = choose(PLAN, ranked(base("own", 1.0), base("other", 0.99)), "own")
    assert plan.base.value == "own" and "too little" in plan.base.reason


def test_the_best_of_the_others_is_taken_where_the_own_base_cannot_be() -> None:
    plan = choose(PLAN, ranked(base("own", None, refused="its licence X is not allowed here"), base("other")), "own")
    assert plan.base.value == "other" and "licence X" in plan.base.reason


def test_where_none_fits_the_own_base_stays_and_all_reasons_are_told() -> None:
    plan = choose(PLAN, ranked(base("own", seconds=900.0), base("other", refused="it is not pulled")), "own")
    assert plan.base.value == "own" and "900 s" in plan.base.reason and "not pulled" in plan.base.reason


def test_a_base_that_a_person_named_is_commented_and_kept() -> None:
    table = ranked(base("tiny", 1.0), base("other", 0.5))
    plan = choose(NAMED, table, "own")
    assert plan.base == NAMED.base and any("other" in note and "0.500" in note for note in plan.notes)
    again = choose(plan, table, "own")
    assert again.notes == plan.notes
    assert choose(NAMED, ranked(base("tiny", 0.4), base("other", 0.5)), "own").notes == NAMED.notes


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, ""),
        ({"licences": ("apache-2.0", "mit")}, ""),
        ({"licences": ("Apache-2.0",)}, "licence MIT"),
        ({"served": False}, "MOATELIER_MORE_BASES"),
        ({"pulled": False}, "not pulled"),
        ({"longest": 513}, "512 tokens"),
        ({"longest": 10_000, "context": None}, ""),
    ],
)
def test_hard_bounds(fields: dict[str, object], told: str) -> None:
    known: dict[str, object] = {"licences": (), "served": True, "pulled": True, "context": 512, "longest": 100}
    why = unfit("MIT", **(known | fields))  # type: ignore[arg-type]  # one of several kinds by name
    assert told in why and bool(why) == bool(told)
