from agents.router import decide
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
