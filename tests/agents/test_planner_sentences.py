"""Plain sentences of many kinds: what the planner reads in them, and what it would rather ask."""

from typing import Any

import pytest

from moatelier.contracts import TaskPlan
from tests.agents.scenes import ANSWERS, BANK, CHAT, SUPPORT, TEAMS, outcome, planned, questions

MINUTE, HOUR = 60.0, 3600.0


def read(plan: TaskPlan) -> dict[str, Any]:
    """A plan's values, flat."""
    return {
        "metric": plan.goal.value.metric,
        "target": plan.goal.value.target,
        "seconds": plan.budget.value.seconds,
        "trials": plan.budget.value.trials,
        "input": plan.columns.value.input,
        "column": plan.columns.value.target,
        "group": plan.columns.value.group,
        "kind": plan.kind.value,
        "private": plan.private.value,
        "too_long": plan.too_long.value,
        "base": plan.base.value,
        "method": plan.method.value,
        "name": plan.name,
        "seed": plan.seed,
    }


ACCURACY, F1 = {"metric": "accuracy"}, {"metric": "macro_f1"}
SUPPORT_SENTENCES: list[tuple[str, dict[str, Any]]] = [
    # how a request usually looks
    (
        "Sort support messages by intent, at least 92 % right, in at most 20 minutes.",
        ACCURACY | {"target": 0.92, "seconds": 20 * MINUTE, "trials": 3, "input": "message", "column": "intent"},
    ),
    (
        "predict the column intent from message with 90% accuracy in half an hour",
        ACCURACY | {"target": 0.9, "seconds": 30 * MINUTE, "column": "intent", "input": "message"},
    ),
    ("Train a classifier for this. 95% accuracy!", ACCURACY | {"target": 0.95, "kind": "classification"}),
    ("please tune something that gets 9 out of 10 messages right", ACCURACY | {"target": 0.9}),
    ("the answer must be right in 19 of 20 cases", {"target": 0.95}),
    # numbers in many spellings
    ("accuracy>=95%", ACCURACY | {"target": 0.95}),
    ("accuracy ≥ 95 %", ACCURACY | {"target": 0.95}),
    ("accuracy=0.95", ACCURACY | {"target": 0.95}),
    ("acc .95", ACCURACY | {"target": 0.95}),
    ("accuracy of 95", ACCURACY | {"target": 0.95}),
    ("accuracy: 92,5 %", {"target": 0.925}),
    ("0,92 accuracy", {"target": 0.92}),
    ("ninety-five percent accuracy", {"target": 0.95}),
    ("at least ninety per cent correct", {"target": 0.9}),
    ("I'd like a 93pct hit rate", {"target": 0.93}),
    ("95% or better", {"target": 0.95}),
    ("get 95+% right".replace("+%", "%+"), {"target": 0.95}),
    ("100% accuracy", {"target": 1.0}),
    # measures
    ("F1 of 0.85", F1 | {"target": 0.85}),
    ("f1>=.85", F1 | {"target": 0.85}),
    ("macro F1 at least 85 %", F1 | {"target": 0.85}),
    ("macro-averaged F1 score above 0.8", F1 | {"target": 0.8}),
    ("F1-macro=0.8, 2 h", F1 | {"target": 0.8, "seconds": 2 * HOUR}),
    ("F1 85 in 1h30", F1 | {"target": 0.85, "seconds": 1.5 * HOUR}),
    ("not accuracy but macro-F1, at least 80%", F1 | {"target": 0.8}),
    ("macro F1, not accuracy, of at least 80%", F1 | {"target": 0.8}),
    ("Use macro F1. I need 80%.", F1 | {"target": 0.8}),
    ("micro F1 of 0.9", ACCURACY | {"target": 0.9}),
    ("exact match of 60%", {"metric": "exact_match", "target": 0.6}),
    ("error rate below 5%", ACCURACY | {"target": 0.95}),
    ("at most 5 % mistakes", ACCURACY | {"target": 0.95}),
    ("fewer than 8% wrong, please", ACCURACY | {"target": 0.92}),
    # numbers that are no goal
    ("improve accuracy from 85% to 93%", {"target": 0.93}),
    ("We are at 81 % today, reach 90 %", {"target": 0.9}),
    ("it gets 85% right now; I need 93%", {"target": 0.93}),
    ("Our current model was at 81 %. The new one must reach 90 %.", {"target": 0.9}),
    ("90% accuracy with 95% confidence", {"target": 0.9}),
    ("with 95% confidence an accuracy of 90%", {"target": 0.9}),
    ("hold out 20% for testing and reach 90% accuracy", {"target": 0.9}),
    ("train on 80% of the data and get 95% of the messages right", {"target": 0.95}),
    ("20% of our customers complain, so I want 90% accuracy", {"target": 0.9}),
    ("dropout 0.1, learning rate 0.001, accuracy 0.9", {"target": 0.9}),
    ("accuracy must not fall below 90%", {"target": 0.9}),
    ("no less than 90 % accuracy, no more than 10 min", {"target": 0.9, "seconds": 10 * MINUTE}),
    # time
    ("92%, no more than 10 min", {"seconds": 10 * MINUTE}),
    ("92% in 90s", {"seconds": 90.0}),
    ("92% within a quarter of an hour", {"seconds": 15 * MINUTE}),
    ("92% in an hour and a half", {"seconds": 90 * MINUTE}),
    ("92%, budget: 1 hour 30 minutes", {"seconds": 90 * MINUTE}),
    ("92% and it may take two hours", {"seconds": 2 * HOUR}),
    ("92%, 10-15 minutes", {"seconds": 15 * MINUTE}),
    ("92%, between 10 and 15 minutes", {"seconds": 15 * MINUTE}),
    ("92%, 5 minutes per trial, two trials", {"seconds": 10 * MINUTE, "trials": 2}),
    ("messages of the last 30 days, 92%", {"seconds": 1800.0}),
    ("it answers within 2 seconds, 92% right", {"seconds": 1800.0}),
    # trials
    ("92%, at most 3 trials", {"trials": 3}),
    ("92%, try twice", {"trials": 2}),
    ("10 trials of 2 minutes each, 92%", {"trials": 10, "seconds": 20 * MINUTE}),
    ("1,5 hours, 92%", {"seconds": 90 * MINUTE}),
    ("92% with a single run", {"trials": 1}),
    ("92%, trials=5, seed 7", {"trials": 5, "seed": 7}),
    ("twenty minutes and three tries for 90% accuracy", {"trials": 3, "seconds": 20 * MINUTE, "target": 0.9}),
    ("2-4 attempts, 90 % accuracy", {"trials": 4}),
    # whole requests
    (
        "I have 900 support messages and want a model that knows the intent. 95 % of new ones should be right. "
        "You have 15 minutes.",
        ACCURACY | {"target": 0.95, "seconds": 15 * MINUTE, "column": "intent"},
    ),
    (
        "Hi! Could you train a small model that can tell which intent a message has? At least 9 in 10 should be "
        "correct, and don't take more than 10 minutes.",
        ACCURACY | {"target": 0.9, "seconds": 10 * MINUTE, "column": "intent", "input": "message"},
    ),
    (
        "Fine-tune on support.csv. Target column intent. Reach 92.5% accuracy in under 15 minutes with no more than "
        "two attempts. Redact personal data. Call it desk.",
        {"target": 0.925, "seconds": 15 * MINUTE, "trials": 2, "private": "redact", "name": "desk", "column": "intent"},
    ),
    (
        "goal=accuracy>=0.9 budget=20m trials=2 name=foo",
        ACCURACY | {"target": 0.9, "seconds": 20 * MINUTE, "trials": 2, "name": "foo"},
    ),
    ("Get to 95% accuracy on the intent column, stop after 30 min", {"target": 0.95, "column": "intent"}),
    ("ideally 95% but at least 90%", {"target": 0.9}),
    ("train for 5 min and see if we get 80%", {"target": 0.8, "seconds": 5 * MINUTE}),
    ("I want the error to be at most 3%", {"target": 0.97}),
    ("MESSAGE to INTENT, 90 PERCENT ACCURACY, 10 MINUTES", {"target": 0.9, "seconds": 10 * MINUTE}),
    # columns
    ("message -> intent, 92%", {"input": "message", "column": "intent"}),
    ("target: channel; input: message; 92%", {"input": "message", "column": "channel"}),
    ("predict channel, not intent, 92%", {"column": "channel"}),
    ("tell me the channel of each message, 92%", {"column": "channel", "input": "message"}),
    ("the label is in the column `channel`, 92%", {"column": "channel"}),
    ("predict the chanel from the mesage, 92%", {"column": "channel", "input": "message"}),
    ("ignore the channel column, 92%", {"column": "intent"}),
    ("rows with the same ticket belong together, 92%", {"group": "ticket", "column": "intent"}),
    ("group by ticket; 92%", {"group": "ticket"}),
    ("read the message and tell me the intent, 92%", {"input": "message", "column": "intent"}),
    # private data
    ("92%. Do not keep private data.", {"private": "redact"}),
    ("92%, remove personal information", {"private": "redact"}),
    ("92%, drop rows with personal data", {"private": "reject"}),
    ("92%, reject rows that contain PII", {"private": "reject"}),
    ("92%, private data may stay", {"private": "allow"}),
    ("92%, don't remove the phone numbers", {"private": "allow"}),
    ("92%, never allow private data", {"private": "redact"}),
    ("92%, never let it see private data", {"private": "redact"}),
    ("do not train on rows with e-mail addresses, 92%", {"private": "reject"}),
    ("92%. Private data? Throw away those rows.", {"private": "reject"}),
    ("92%. There is no private data in it.", {"private": "redact"}),
    # the rest
    ("92%, truncate long rows", {"too_long": "truncate"}),
    ("92%, never truncate", {"too_long": "refuse"}),
    ("92%, skip messages that are too long", {"too_long": "drop"}),
    ("92%, call it Ticket Router", {"name": "ticket-router"}),
    ('92%, call it "95% club"', {"name": "95-club", "target": 0.92}),
    ("92%, name it router-v2 and use base tiny", {"name": "router-v2", "base": "tiny"}),
    ("fine-tune pico-9m with lora to 92%", {"base": "pico-9m", "method": "lora"}),
    ("use SmolLM2, 92%", {"base": "smollm2-135m-instruct"}),
    ("it is a tiny dataset, 92%", {"base": "smollm2-135m-instruct"}),
    ("use lora, not full fine-tuning, 92%", {"method": "lora"}),
    ("train on support.csv, 92%", {"name": "support-intent"}),
    ("92% but call it a day after 5 minutes", {"name": "support-intent", "seconds": 5 * MINUTE}),
]


@pytest.mark.parametrize(("sentence", "expected"), SUPPORT_SENTENCES, ids=[each[0] for each in SUPPORT_SENTENCES])
def test_reads_a_sentence(sentence: str, expected: dict[str, Any]) -> None:
    values = read(planned(sentence))
    assert {name: values[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sentence", "field"),
    [
        ("make it better", "goal"),
        ("improve accuracy", "goal"),
        ("make it 5% better", "goal"),
        ("we are at 85% now", "goal"),
        ("as good as possible", "goal"),
        ("between 90 and 95 % accuracy", "goal"),
        ("90-95% accuracy", "goal"),
        ("90% or 95% accuracy", "goal"),
        ("90% accuracy and 0.85 F1", "goal"),
        ("accuracy or F1 of at least 0.9", "goal"),
        ("accuracy at most 95%", "goal"),
        ("120% accuracy", "goal"),
        ("0.95% accuracy", "goal"),
        ("precision of 0.9", "goal"),
        ("weighted F1 of 0.8", "goal"),
        ("accuracy_95%.csv should be learnt", "goal"),
        ("top-3 accuracy of 95%", "goal"),
        ("loss below 0.1", "goal"),
        ("I want 95% accuracy, but 90% is fine too", "goal"),
        ("accuracy better than our current 85%", "goal"),
        ("92%, overnight", "budget"),
        ("92% by 5pm", "budget"),
        ("92 percent within 20", "budget"),
        ("92%, a few minutes", "budget"),
        ("92%, take as long as you need", "budget"),
        ("92% in 10 minutes, at most 1 hour", "budget"),
        ("92%, at least 10 minutes", "budget"),
        ("92%, 5 minutes per trial", "trials"),
        ("92%, at least 3 trials", "trials"),
        ("92%, 50 trials", "trials"),
        ("predict the priority, 92%", "columns.target"),
        ("predict the column priorty, 92%", "columns.target"),
        ("sort messages by urgency, 92%", "columns.target"),
        ("predict channel or intent, 92%", "columns.target"),
        ("predict the message, 92%", "columns.target"),
        ("use message and channel to predict intent, 92%", "columns.input"),
        ("sort by ticket, 92%", "kind"),
        ("use only rows from the web channel, 92%", "rows"),
        ("92%, 100 rows only", "rows"),
        ("92%, ignore private data", "private"),
        ("92%, redact phone numbers but keep the email addresses", "private"),
        ("use QLoRA, 92%", "method"),
        ("without lora, 92%", "method"),
        ("fine-tune Qwen2.5-0.5B to 92%", "base"),
        ("base: llama, 92%", "base"),
        ("call it champion, 92%", "name"),
        ("classify images, 92%", "modality"),
        ("transcribe my calls with 92% accuracy", "modality"),
        ("reply like our team, 92%", "kind"),
        ("train on tickets.csv, 92%", "train_file"),
        ("92%, test on holdout.csv", "test_file"),
        ("92%, test on support.csv", "test_file"),
    ],
)
def test_asks_rather_than_guesses(sentence: str, field: str) -> None:
    asked = questions(sentence)
    assert set(asked) - {"train_file" if "accuracy_95" in sentence else ""} == {field}
    assert asked[field].text.endswith((".", "?"))


@pytest.mark.parametrize(
    "sentence",
    [
        "Classify bank customer messages by intent: accuracy at least 95% in at most 3 minutes",
        "predict the category from the text, accuracy 95 %, 3 min",
        "sort these texts into categories, 95 percent right, three minutes",
    ],
)
def test_a_generic_column_name_fits_any_noun(sentence: str) -> None:
    plan = planned(sentence, data=BANK)
    assert plan.columns.value.model_dump(exclude_none=True) == {"input": "text", "target": "category"}
    assert (plan.goal.value.target, plan.budget.value.seconds) == (0.95, 180)


@pytest.mark.parametrize(
    ("answers", "target", "column"),
    [
        (("92%",), 0.92, "intent"),
        (("92",), 0.92, "intent"),
        (("0.92",), 0.92, "intent"),
        (("at least 92 percent, please",), 0.92, "intent"),
        (("the second one",), 0.9, "intent"),
        (("second",), 0.9, "intent"),
        (("2",), 0.9, "intent"),
        (("number two",), 0.9, "intent"),
        (("the last one, please",), 0.95, "intent"),
        (("accuracy of at least 85 %",), 0.85, "intent"),
        (("let's say ninety",), 0.9, "intent"),
        (("hm", "no idea", "93%"), 0.93, "intent"),
        (("92%", "actually 90%"), 0.9, "intent"),
        (("92%", "predict the channel instead"), 0.92, "channel"),
    ],
)
def test_an_answer_continues_the_request(answers: tuple[str, ...], target: float, column: str) -> None:
    plan = planned("make it better", *answers)
    assert (plan.goal.value.target, plan.columns.value.target) == (target, column)


@pytest.mark.parametrize(
    ("answers", "column"),
    [
        (("queue",), "queue"),
        (("the second one",), "queue"),
        (("2.",), "queue"),
        (("Queue, please",), "queue"),
        (("quue",), "queue"),
        (("the team column",), "team"),
        (("not team but queue",), "queue"),
        (("you decide",), "team"),
    ],
)
def test_an_answer_names_a_column(answers: tuple[str, ...], column: str) -> None:
    assert questions("classify tickets, 90%", data=TEAMS).keys() == {"columns.target"}
    assert planned("classify tickets, 90%", *answers, data=TEAMS).columns.value.target == column


@pytest.mark.parametrize("answer", ["1. queue 2. 92 %", "queue, 92 %", "92 % and queue", "1) queue\n2) 92"])
def test_one_answer_to_two_questions(answer: str) -> None:
    assert questions("classify tickets", data=TEAMS).keys() == {"columns.target", "goal"}
    plan = planned("classify tickets", answer, data=TEAMS)
    assert (plan.columns.value.target, plan.goal.value.target) == ("queue", 0.92)


def test_an_ordinal_is_not_used_where_two_questions_could_be_meant() -> None:
    assert questions("classify tickets", "the second one", data=TEAMS).keys() == {"columns.target", "goal"}


def test_choosing_one_of_two_goals_takes_its_number() -> None:
    goal = planned("90% accuracy and 0.85 F1", "macro F1").goal
    assert (goal.value.metric, goal.value.target, goal.source) == ("macro_f1", 0.85, "user")
    assert planned("90% accuracy and 0.85 F1", "the 90%").goal.value.metric == "accuracy"


def test_yes_and_no_answer_a_single_choice() -> None:
    assert planned("train on tickets.csv, 92%", "yes").train_file == "file-train"
    assert questions("train on tickets.csv, 92%", "no").keys() == {"train_file"}
    assert planned("use QLoRA, 92%", "ok").method.value == "lora"


@pytest.mark.parametrize(
    ("answer", "private"), [("redact it", "redact"), ("reject rows with it", "reject"), ("3", "allow")]
)
def test_private_data_choice(answer: str, private: str) -> None:
    assert planned("92%, ignore private data", answer).private.value == private


def test_budget_and_trials_answers() -> None:
    assert planned("92%, overnight", "8 hours").budget.value.seconds == 8 * HOUR
    assert planned("92%, overnight", "the first").budget.value.seconds == 600
    assert planned("92%, 50 trials", "2").budget.value.trials == 2
    assert planned("92%, 50 trials", "four").budget.value.trials == 4
    assert planned("92%, overnight", "whatever").budget.value.seconds == 1800


def test_the_named_target_wins_over_a_doubt_once_confirmed() -> None:
    asked = questions("predict the message, 92%")["columns.target"]
    assert asked.choices == ("intent", "message")
    assert planned("predict the message, 92%", "intent").columns.value.target == "intent"


def test_name_answer() -> None:
    assert planned("call it champion, 92%", "Ticket Router").name == "ticket-router"
    assert questions("call it champion, 92%", "auto").keys() == {"name"}


def test_chat_rows() -> None:
    plan = planned("Answer like our support team, exact match 50 %, 10 min", data=CHAT)
    assert plan.kind.value == "chat"
    assert plan.columns.value.messages == "messages"
    assert (plan.goal.value.metric, plan.goal.value.target) == ("exact_match", 0.5)
    assert planned("50% right", data=CHAT).goal.value.metric == "exact_match"
    assert questions("macro F1 of 0.9", data=CHAT).keys() == {"goal"}
    assert planned("macro F1 of 0.9", "exact match of 0.5", data=CHAT).goal.value.target == 0.5


def test_a_target_with_long_answers_makes_chat_of_two_columns() -> None:
    plan = planned("answer the question like the answer column does, exact match 40%", data=ANSWERS)
    assert plan.kind.value == "chat"
    assert plan.columns.value.model_dump(exclude_none=True) == {"input": "question", "target": "answer"}


def test_unknown_kind_is_asked_unless_the_target_shows_it() -> None:
    vague = SUPPORT.model_copy(update={"kind": None, "guesses": ()})
    assert questions("92%", data=vague).keys() == {"kind"}
    assert planned("predict intent from message, 92%", data=vague).kind.value == "classification"


def test_no_file_is_asked_first() -> None:
    asked = outcome("make it better", data=None)
    assert isinstance(asked, tuple)
    assert [question.field for question in asked] == ["train_file", "goal"]
    assert planned("make it better", "here is the file. 92 %").goal.value.target == 0.92


def test_a_test_file_that_does_not_fit_is_asked() -> None:
    assert planned("92%", test=SUPPORT.model_copy(update={"name": "locked.csv"})).test_file == "file-test"
    asked = questions("92%", test=BANK.model_copy(update={"name": "locked.csv"}))
    assert "no column 'message' or 'intent'" in asked["test_file"].text
    test = BANK.model_copy(update={"name": "locked.csv"})
    assert planned("92%", "split them off", test=test).test_file is None


def test_files_may_be_named_as_they_were_sent() -> None:
    test = SUPPORT.model_copy(update={"name": "holdout.csv"})
    plan = planned("train on support.csv, test on ./data/holdout.csv, 92%", test=test)
    assert plan.test_file == "file-test"


def test_no_file_no_column_and_no_sentence_breaks_the_planner() -> None:
    for message in ("", " ", "?!", "%", "%%%", "1. 2. 3.", '"', "a" * 5000, "at least", "half", "的 90% 准确", "\n\n"):
        for data in (SUPPORT, None):
            assert outcome(message, message, data=data)
