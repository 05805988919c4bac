import pytest

from agents.router import decide, join
from moatelier.contracts import BuiltProfile, RouterEvidence
from tests.agents.scenes import planned
from tests.agents.trials import gate

PLAN = planned("92%, call it desk")
CANDIDATE, CHAMPION, OTHER = "c" * 64, "d" * 64, "e" * 64


def test_the_first_promotion_takes_the_tasks_name() -> None:
    registration = decide(gate(), PLAN, None)
    assert (registration.aliases, registration.fence) == (("desk",), 1)
    assert "for the first time" in registration.reason


def test_a_promotion_replaces_the_champion_with_a_higher_fence() -> None:
    registration = decide(gate(champion=CHAMPION), PLAN, (CHAMPION, 4))
    assert (registration.aliases, registration.fence) == (("desk",), 5)
    assert "instead of dddddddd" in registration.reason


def test_what_is_not_promoted_is_kept_without_an_alias() -> None:
    registration = decide(gate(promoted=False, reached=False, champion=CHAMPION), PLAN, (CHAMPION, 4))
    assert registration.aliases == ()
    assert registration.reason.startswith("Not reached.")


def test_deciding_again_after_a_crash_changes_nothing() -> None:
    registration = decide(gate(champion=CHAMPION), PLAN, (CANDIDATE, 5))
    assert (registration.aliases, registration.fence) == (("desk",), 5)


def test_an_alias_that_moved_meanwhile_is_left_alone() -> None:
    assert decide(gate(champion=CHAMPION), PLAN, (OTHER, 5)).aliases == ()
    assert decide(gate(champion=None), PLAN, (OTHER, 1)).aliases == ()
    assert "moved" in decide(gate(champion=CHAMPION), PLAN, None).reason


def evidence(
    promoted: bool = True, replaces: str | None = None, successor: str | None = None, **fields: object
) -> RouterEvidence:
    values: dict[str, object] = {"adapter": CANDIDATE, "profile": "1" * 64, "held_out": "2" * 64}
    values |= {"rows": 300, "held_out_rows": 50, "twin": OTHER, "told_apart": 0.97}
    built = BuiltProfile.model_validate(values | fields)
    return RouterEvidence(built=built, promoted=promoted, replaces=replaces, successor=successor)


def test_a_recipes_aggregator_stays_out_of_auto() -> None:
    membership = join(evidence().model_copy(update={"edits": True}))
    assert not membership.joined and "one answer of others'" in membership.reason


def test_a_promoted_adapter_with_a_domain_of_its_own_joins_auto() -> None:
    membership = join(evidence())
    assert membership.joined and membership.replaces is None and "97%" in membership.reason
    alone = join(evidence(twin=None, told_apart=1.0))
    assert alone.joined


def test_it_takes_the_place_of_the_champion_whose_alias_it_took() -> None:
    membership = join(evidence(replaces=CHAMPION))
    assert membership.replaces == CHAMPION and "place of dddddddd" in membership.reason


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"promoted": False, "replaces": CHAMPION}, "did not promote"),
        ({"successor": CHAMPION}, "dddddddd has taken its place"),
        ({"rows": 19}, "19 training rows are too few"),
        ({"held_out_rows": 2}, "2 dev rows are too few"),
        ({"told_apart": 0.6}, "cannot be told from those of eeeeeeee"),
    ],
)
def test_who_stays_out_of_auto_and_why(fields: dict[str, object], told: str) -> None:
    membership = join(evidence(**fields))  # type: ignore[arg-type]
    assert not membership.joined and membership.replaces is None and told in membership.reason


def test_who_finds_pictures_stays_out_of_auto() -> None:
    membership = join(evidence().model_copy(update={"kind": "retrieval"}))
    assert not membership.joined and "gives vectors" in membership.reason and "asked by name" in membership.reason
