"""The plan itself: provenance, reasons, notes, proposals of an endpoint, edits before approval."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.planner import LOCKED_NOTE, accept, proposal_schema, revise, with_required
from moatelier.contracts import Question, TaskPlan
from moatelier.errors import InvalidRequest
from tests.agents.scenes import CHAT, DEFAULTS, SUPPORT, TEAMS, outcome, planned, profile, questions

# ---------------------------------------------------------------- provenance


def test_every_field_says_where_it_comes_from() -> None:
    plan = planned("predict intent from message, accuracy at least 92 %, in 20 minutes")
    assert (plan.columns.source, plan.goal.source, plan.budget.source) == ("user", "user", "user")
    assert (plan.base.source, plan.private.source, plan.too_long.source) == ("default", "default", "default")
    assert plan.goal.reason == 'You said "accuracy at least 92 %". You named accuracy.'
    assert '"in 20 minutes"' in plan.budget.reason
    assert "3 trials is the default" in plan.budget.reason
    assert plan.private.reason == "Nothing was said; private data is replaced by placeholders and the rows stay."


def test_what_is_taken_from_the_file_is_inferred_with_its_confidence() -> None:
    plan = planned("92%")
    assert (plan.columns.source, plan.columns.confidence) == ("inferred", 0.95)
    assert "it looks so" in plan.columns.reason
    assert (plan.goal.source, plan.goal.value.metric) == ("inferred", "accuracy")
    assert plan.goal.confidence < 0.9
    assert "No measure was named" in plan.goal.reason


def test_a_typo_is_told() -> None:
    plan = planned("predict the intnet from mesage, 92%")
    assert plan.columns.confidence < 0.9
    assert 'You wrote "intnet" as what to predict; the nearest column is "intent".' in plan.columns.reason


def test_the_same_words_give_the_same_plan() -> None:
    assert planned("92%, 20 min").digest == planned("92%, 20 min").digest
    assert planned("92%, 20 min").digest != planned("93%, 20 min").digest


def test_notes_tell_what_is_not_taken_over_and_what_is_wrong_with_the_file() -> None:
    broken = SUPPORT.model_copy(update={"exact_duplicates": 12})
    notes = planned("92%, 5 epochs, hold out 30% for testing", data=broken).notes
    assert any("5 epochs" in note for note in notes)
    assert any("hold out 30%" in note for note in notes)
    assert any(note.startswith("12 of 900 rows repeat") for note in notes)


def test_a_column_named_like_a_file_or_with_odd_letters_is_no_trouble() -> None:
    odd = profile(
        [*SUPPORT.columns[:3], SUPPORT.columns[3].model_copy(update={"name": "a+b (c)"})], [("input", "message", 0.9)]
    )
    assert questions("92%", data=odd).keys() == {"columns.target"}
    assert planned("92%", "a+b (c)", data=odd).columns.value.target == "a+b (c)"
    assert planned("predict `a+b (c)`, 92%", data=odd).columns.value.target == "a+b (c)"


def test_questions_that_were_shown_may_be_given() -> None:
    asked = [[Question(field="goal", text="?", choices=("accuracy of at least 70 %", "accuracy of at least 75 %"))]]
    assert planned("make it better", "the second one", asked=asked).goal.value.target == 0.75


def test_a_second_message_corrects_the_first() -> None:
    plan = planned("92%, 20 min, redact private data", "no, 30 minutes and drop rows with private data")
    assert (plan.goal.value.target, plan.budget.value.seconds, plan.private.value) == (0.92, 1800, "reject")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_any_text_gives_a_plan_or_questions(messages: list[str]) -> None:
    for data in (SUPPORT, TEAMS, CHAT, None):
        result = outcome(*messages, data=data)
        assert isinstance(result, TaskPlan) or (result and all(isinstance(each, Question) for each in result))


WORDS = (
    "at least 92 % accuracy F1 of 0.9 between and 20 minutes trials column intent message not private data drop "
    "rows long is the"
).split()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_any_order_of_its_own_words_gives_a_plan_or_questions(words: list[str]) -> None:
    assert outcome(" ".join(words), " ".join(reversed(words)))


def test_a_long_message_is_read_in_time() -> None:
    started = time.perf_counter()
    outcome("we have 20 minutes and want at least 92 % accuracy on the intent of each message, " * 48)
    outcome("private data " * 100 + "9 " * 600 + "a-b." * 300)
    outcome("9 of 10 " * 499)
    outcome("message intent " * 260)
    assert time.perf_counter() - started < 20


def test_pasted_data_is_no_request() -> None:
    asked = questions("message,intent\n" * 1000 + "92%")
    assert "send data as a file" in asked["request"].text
    assert planned("x" * 5000, "92%").goal.value.target == 0.92


# ---------------------------------------------------------------- locked rows


def test_the_note_on_locked_rows() -> None:
    plan = with_required(planned("95%"), 180, 177)
    assert plan.notes[-1] == f"{LOCKED_NOTE}to claim 95 % with its lower bound, 177 of 180 must be right (98.3 %)."
    told = with_required(plan, 180, 177, rate=0.991, gain=0.0731, champion=0.9)
    assert told.notes[-1].endswith(
        "Smallest effects with 85 % power: a model that is truly right in 99.1 % passes, and a true gain of 7.3 points "
        "on the champion's 90 % is shown; smaller ones need more rows."
    )
    hopeless = with_required(plan, 180, 177, rate=0.991, champion=0.98).notes[-1]
    assert "passes, and no gain on the champion's 98 % is shown by so few rows; smaller ones" in hopeless
    again = with_required(plan, 40, None)
    assert [note.startswith(LOCKED_NOTE) for note in again.notes] == [True]
    assert "cannot show 95 %" in again.notes[0]


# ---------------------------------------------------------------- proposals


def proposed(**fields: Any) -> dict[str, Any]:
    accepted = accept(fields)
    assert isinstance(accepted, dict), accepted
    return accepted


def test_the_schema_is_bounded() -> None:
    schema = proposal_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {
        *("goal", "budget", "columns", "kind", "private", "too_long", "method", "base", "name"),
    }


@pytest.mark.parametrize(
    "junk",
    [
        "Sure! Here is your plan.",
        "{",
        b"\xff\xfe",
        None,
        [],
        42,
        "[1, 2]",
        {"run": "rm -rf /"},
        {"goal": {"metric": "accuracy", "target": 95, "quote": "95"}},
        {"goal": {"metric": "vibes", "target": 0.9, "quote": "0.9"}},
        {"goal": {"metric": "accuracy", "target": 0.9}},
        {"budget": {"seconds": -1, "quote": "x"}},
        {"budget": {"trials": 1000, "quote": "x"}},
        {"name": {"value": "x" * 1000, "quote": "x"}},
        "[" * 100000,
    ],
)
def test_junk_is_refused_with_a_text_for_the_repair_turn(junk: object) -> None:
    error = accept(junk)
    assert isinstance(error, str)
    assert len(error) < 2000


def test_a_fenced_answer_is_accepted() -> None:
    assert accept('```json\n{"kind": {"value": "chat", "quote": "reply"}}\n```') == {
        "kind": {"value": "chat", "quote": "reply"}
    }


def test_a_proposal_never_overrides_what_was_said() -> None:
    proposal = proposed(
        goal={"metric": "accuracy", "target": 0.5, "quote": "92%"},
        budget={"seconds": 9999, "trials": 20, "quote": "20 minutes"},
        private={"value": "allow", "quote": "redact private data"},
        columns={"target": "channel"},
    )
    words = "predict intent, 92%, 20 minutes, 2 trials, redact private data"
    assert planned(words, proposal=proposal) == planned(words)


def test_a_proposed_goal_only_becomes_a_choice_of_the_question() -> None:
    words = "nearly all of them, say 9 of ten, ought to be fine"
    proposal = proposed(goal={"metric": "accuracy", "target": 0.9, "quote": "say 9 of ten"})
    asked = questions(words, proposal=proposal)["goal"]
    assert asked.choices == ("accuracy of at least 90 %",)
    assert planned(words, "yes", proposal=proposal).goal.value.target == 0.9
    assert planned(words, "no, 95 %", proposal=proposal).goal.value.target == 0.95


@pytest.mark.parametrize("quote", ["99 %", "make", "make it better 5"])
def test_a_goal_that_is_not_in_the_words_is_not_even_offered(quote: str) -> None:
    proposal = proposed(goal={"metric": "accuracy", "target": 0.99, "quote": quote})
    assert questions("make it better", proposal=proposal)["goal"].choices != ("accuracy of at least 99 %",)


def test_proposed_values_need_the_persons_words_and_the_offered_set() -> None:
    words = "92% please, be quick about it: one coffee of 6 sips, and no names leave the house"
    proposal = proposed(
        budget={"seconds": 360, "quote": "one coffee of 6 sips"},
        private={"value": "redact", "quote": "no names leave the house"},
        base={"value": "gpt-99", "quote": "be quick about it"},
        too_long={"value": "truncate", "quote": "cut them"},
    )
    plan = planned(words, proposal=proposal)
    assert (plan.budget.value.seconds, plan.budget.source) == (360, "inferred")
    assert (plan.private.value, plan.private.source) == ("redact", "inferred")
    assert plan.base.source == plan.too_long.source == "default"
    assert "planner endpoint" in plan.budget.reason


def test_a_proposed_column_counts_only_where_the_file_agrees() -> None:
    assert planned("92%", data=TEAMS, proposal=proposed(columns={"target": "team"})).columns.value.target == "team"
    lie = proposed(columns={"target": "body"})
    assert questions("92%", data=TEAMS, proposal=lie).keys() == {"columns.target"}
    assert (
        questions("92%", data=TEAMS, proposal=proposed(columns={"target": "queue"}))["columns.target"].choices[0]
        == "queue"
    )


# ---------------------------------------------------------------- edits


PLAN = planned("predict intent from message, 92%, 20 minutes")


@pytest.mark.parametrize(
    ("edits", "path", "value"),
    [
        ({"goal": {"target": 0.9}}, "goal.value.target", 0.9),
        ({"goal": "macro-F1 of at least 85 %"}, "goal.value.metric", "macro_f1"),
        ({"budget": "30 minutes, 2 trials"}, "budget.value.trials", 2),
        ({"budget": {"seconds": 60}}, "budget.value.seconds", 60),
        ({"columns": {"target": "channel"}}, "columns.value.target", "channel"),
        ({"private": "reject"}, "private.value", "reject"),
        ({"private": {"value": "allow", "source": "default", "confidence": 1, "reason": ""}}, "private.value", "allow"),
        ({"base": "tiny"}, "base.value", "tiny"),
        ({"name": "router-v2"}, "name", "router-v2"),
        ({"seed": 9}, "seed", 9),
    ],
)
def test_an_edit_changes_one_field(edits: dict[str, Any], path: str, value: object) -> None:
    revised = revise(PLAN, edits, SUPPORT, DEFAULTS)
    found: Any = revised
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value
    field = getattr(revised, path.split(".")[0])
    if hasattr(field, "source"):
        assert (field.source, field.reason.startswith("You changed it from")) == ("user", True)


def test_unchanged_fields_may_be_sent_along() -> None:
    shown = PLAN.model_dump(mode="json")
    assert revise(PLAN, json.loads(json.dumps(shown))) is PLAN
    assert revise(PLAN, shown | {"seed": 3}).model_dump(exclude={"seed"}) == PLAN.model_dump(exclude={"seed"})


def test_a_changed_goal_drops_the_stale_note() -> None:
    noted = with_required(PLAN, 180, 170)
    assert not revise(noted, {"goal": {"target": 0.8}}).notes
    assert revise(noted, {"seed": 1}).notes == noted.notes


@pytest.mark.parametrize(
    ("edits", "where"),
    [
        ({"train_file": "file-other"}, "train_file"),
        ({"nonsense": 1}, "nonsense"),
        ({"modality": "vision"}, "modality"),
        ({"goal": {"target": 92}}, "goal.target"),
        ({"goal": {"metric": "vibes"}}, "goal.metric"),
        ({"goal": "as good as possible"}, "goal"),
        ({"goal": 5}, "goal"),
        ({"budget": "overnight"}, "budget"),
        ({"budget": {"seconds": 0}}, "budget.seconds"),
        ({"budget": {"trials": 99}}, "budget.trials"),
        ({"columns": {"target": "priority"}}, "columns.target"),
        ({"columns": {"target": "message"}}, "columns.target"),
        ({"columns": {"input": None}}, "columns"),
        ({"kind": "chat", "goal": {"metric": "macro_f1"}}, "goal.metric"),
        ({"private": "sell"}, "private"),
        ({"base": "gpt-99"}, "base"),
        ({"method": "qlora"}, "method"),
        ({"name": "Not A Slug"}, "name"),
        ({"name": "champion"}, "name"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_an_impossible_edit_names_its_field(edits: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        revise(PLAN, edits, SUPPORT, DEFAULTS)
    assert caught.value.where == where
    assert caught.value.remedy


def test_an_answer_without_a_usable_figure_is_asked_again() -> None:
    """Found by the property test: `0.9 %` offers choices of which not all have a target."""
    assert outcome("0.9 %", "% 0.9")


def test_conditions_are_edited_in_parts_and_suites_are_of_texts() -> None:
    plan = revise(PLAN, {"conditions": {"approval": True, "size_mb": 5}})
    assert plan.conditions is not None and plan.conditions.approval and plan.conditions.retention
    again = revise(plan, {"conditions": {"retention": False}})
    assert again.conditions is not None and again.conditions.approval and not again.conditions.retention
    with pytest.raises(InvalidRequest, match="valid"):
        revise(PLAN, {"conditions": {"size_mb": -1}})
    pictures = PLAN.model_copy(update={"modality": PLAN.modality.model_copy(update={"value": "vision"})})
    with pytest.raises(InvalidRequest, match="suites are of texts"):
        revise(pictures, {"conditions": {"approval": True}})
