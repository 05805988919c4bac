"""Feedback: joined to routes, the latest word stands, counted for the router."""

from pathlib import Path

import pytest

from moatelier.contracts import Event, Feedback, RouteDecision, now
from moatelier.errors import InvalidRequest, NotFound
from store import events, feedback


def routed(completion: str, chosen: str = "a", region: str | None = "a", project: str = "p") -> None:
    route = RouteDecision(
        requested="auto", chosen=chosen, reason="auto", completion=completion, region=region, propensity=0.5
    )
    body = route.model_dump(mode="json")
    events.append([Event(project=project, stream="inference", job=completion, kind="route", body=body)])


def say(completion: str, rating: int, key: str = "k", project: str = "p") -> feedback.StoredFeedback:
    said = Feedback.model_validate({"completion": completion, "rating": rating})
    return feedback.put(project, key, said, int(rating > 0))


def test_feedback_is_kept_with_the_route(store: Path) -> None:
    routed("c-1", chosen="b")
    kept = feedback.put("p", "k", Feedback(completion="c-1", rating=-1, edit="better", comment="meh"), 0)
    assert (kept.requested, kept.chosen, kept.region, kept.propensity) == ("auto", "b", "a", 0.5)
    assert feedback.list_feedback("p", "c-1") == [kept]
    assert feedback.list_feedback("other", "c-1") == []


def test_the_latest_word_of_a_key_stands_and_keys_do_not_mix(store: Path) -> None:
    routed("c-1")
    assert say("c-1", -1) and say("c-1", -1, key="other") and say("c-1", 1) and say("c-1", 1)
    assert [(kept.key, kept.rating) for kept in feedback.list_feedback("p", "c-1")] == [("other", -1), ("k", 1)]
    assert feedback.tallies("p") == {("a", "a"): (1, 1)}


def test_tallies_count_routed_answers_with_a_reward_only(store: Path) -> None:
    for number in range(5):
        routed(f"c-{number}", chosen="b")
        say(f"c-{number}", 1 if number else -1)
    routed("named", region=None)
    say("named", 1)
    routed("mute")
    feedback.put("p", "k", Feedback(completion="mute", comment="no rating"), None)
    routed("foreign", project="q")
    say("foreign", 1, project="q")
    assert feedback.tallies("p") == {("a", "b"): (4, 1)}
    assert feedback.tallies("q") == {("a", "a"): (1, 0)}


def test_a_completion_of_another_project_does_not_exist(store: Path) -> None:
    routed("c-1", project="q")
    for project in ("p", ""):
        with pytest.raises(NotFound, match="no such completion"):
            say("c-1", 1, project=project)
    with pytest.raises(NotFound):
        say("c-2", 1, project="q")


def test_feedback_that_says_nothing_or_too_much_is_refused(store: Path) -> None:
    routed("c-1")
    with pytest.raises(InvalidRequest, match="says nothing"):
        feedback.put("p", "k", Feedback(completion="c-1"), None)
    with pytest.raises(InvalidRequest, match="20000 are kept") as caught:
        feedback.put("p", "k", Feedback(completion="c-1", comment="x" * 20_001), None)
    assert caught.value.where == "comment"
    assert feedback.list_feedback("p", "c-1") == []


def test_several_people_have_one_word_on_a_completion(store: Path) -> None:
    begin = now()
    for completion in ("c-1", "c-2"):
        routed(completion, chosen=completion)
    routed("mute")
    say("c-2", 1)
    say("c-1", -1)
    say("c-2", -1, key="other")
    feedback.put("p", "k", Feedback(completion="mute", comment="no rating"), None)
    said = feedback.words("p", begin)
    assert [(word.chosen, word.good) for word in said] == [("c-2", 0.5), ("c-1", 0.0)]
    assert feedback.words("p", now()) == [] and feedback.words("q", begin) == []
