"""What people say on answers becomes rows: redacted, approved, without contradictions, and nobody's thousand words."""

from collections import Counter
from typing import Any

import pytest

from graphs import lessons as gathering
from graphs import retraining
from moatelier.contracts import Columns, Event, Feedback, LessonBody, RouteDecision
from moatelier.errors import Conflict, InvalidRequest, NotFound
from store import adapters, events, exchanges, feedback, lessons
from tests.graphs.learning import ALIAS, answered, champion, judge

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def record() -> adapters.AdapterRecord:
    return champion()


def statuses() -> dict[str, str]:
    return {each.completion: each.status for each in lessons.list_lessons("default", alias=ALIAS)}


def test_a_label_waits_redacted_for_a_person(record: adapters.AdapterRecord) -> None:
    asked = answered(record, "write to ann@example.com please", "a")
    judge(asked, label="b", edit="ask bob@example.com")
    assert exchanges.get("default", asked) is None, "what is not redacted is not shown"
    assert gathering.gather() == 1
    [lesson] = lessons.list_lessons("default", alias=ALIAS)
    assert lesson.status == "pending" and lesson.body.wanted == "b"
    assert lesson.body.messages[0]["content"] == "write to [email] please" and lesson.body.edit == "ask [email]"
    assert lessons.judge("default", [asked], "approved", actor="k") == 1
    assert lessons.judge("default", [asked], "approved", actor="k") == 0
    assert gathering.gather() == 0 and statuses() == {asked: "approved"}


def test_what_is_said_later_is_looked_at_anew(record: adapters.AdapterRecord) -> None:
    asked = answered(record, "where is it")
    judge(asked, key="k", label="b")
    gathering.gather()
    lessons.judge("default", [asked], "approved", actor="k")
    judge(asked, key="k", label="a")
    gathering.gather()
    [lesson] = lessons.list_lessons("default", alias=ALIAS)
    assert (lesson.status, lesson.body.label) == ("pending", "a")


def test_contradictions_teach_nothing(record: adapters.AdapterRecord) -> None:
    one, two, three, four = (answered(record, words) for words in ("one", "two", "the same", "the same"))
    judge(one, label="a")
    judge(one, label="b")
    judge(two, rating=1)
    judge(two, rating=-1)
    judge(three, label="a")
    gathering.gather()
    lessons.judge("default", [three], "approved", actor="k")
    judge(four, label="b")
    gathering.gather()
    assert statuses() == dict.fromkeys((one, two, three, four), "contradictory")
    with pytest.raises(Conflict, match="contradictory"):
        lessons.judge("default", [one], "approved", actor="k")
    assert lessons.judge("default", [one], "rejected", actor="k") == 1
    assert lessons.counts("default", ALIAS) == {"contradictory": 3, "rejected": 1}


def test_without_words_or_a_right_answer_there_is_nothing_to_learn(record: adapters.AdapterRecord) -> None:
    asked = answered(record, "where")
    judge(asked, comment="meh")
    gathering.gather()
    assert statuses() == {asked: "wordless"}


def test_words_may_come_with_the_feedback(record: adapters.AdapterRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(record, "x")
    with monkeypatch.context() as patched:
        patched.setattr(exchanges, "append", lambda _: None)
        bare = answered(record, "nobody keeps this")
    turns = ({"role": "user", "content": "where is it"},)
    judge(bare, label="a", messages=turns, answer="b")
    judge(asked, label="a", messages=turns, answer="b")
    gathering.gather()
    found = {each.completion: each.body for each in lessons.list_lessons("default")}
    assert found[bare].messages == turns and found[asked].messages[0]["content"] == "x", "what was kept itself stays"
    with pytest.raises(InvalidRequest, match="a role and a text"):
        judge(bare, label="a", messages=({"role": "user", "content": [1]},), answer="b")


def test_lessons_of_another_project_do_not_exist(record: adapters.AdapterRecord) -> None:
    asked = answered(record, "where")
    judge(asked, label="a")
    gathering.gather()
    with pytest.raises(NotFound):
        lessons.judge("other", [asked], "approved", actor="k")
    assert lessons.list_lessons("other") == [] and lessons.judge_pending("other", ALIAS, "approved", actor="k") == 0


BODY = LessonBody(messages=({"role": "user", "content": "q"},), answer="said", edit="better", good=False)


def thumb(good: bool) -> LessonBody:
    return LessonBody(messages=BODY.messages, answer="x", good=good)


TURNS = (*BODY.messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": "and?"})


@pytest.mark.parametrize(
    ("kind", "columns", "body", "row"),
    [
        ("classification", {"input": "t", "target": "l"}, BODY.model_copy(update={"label": "b"}), {"t": "q", "l": "b"}),
        ("chat", {"input": "t", "target": "l"}, BODY, {"t": "q", "l": "better"}),
        ("chat", {"input": "t", "target": "l"}, LessonBody(messages=BODY.messages, answer="x", good=False), None),
        (
            "chat",
            {"input": "t", "target": "l"},
            LessonBody(messages=BODY.messages, answer="x", good=True),
            {"t": "q", "l": "x"},
        ),
        ("preference", {"input": "t", "target": "c", "rejected": "r"}, BODY, {"t": "q", "c": "better", "r": "said"}),
        ("preference", {"input": "t", "target": "c", "rejected": "r"}, BODY.model_copy(update={"edit": "said"}), None),
        ("thumbs", {"input": "t", "target": "a", "thumb": "u"}, BODY, {"t": "q", "a": "said", "u": "down"}),
        ("chat", {"input": "t", "target": "l"}, BODY.model_copy(update={"messages": TURNS}), None),
        ("chat", {"input": "t", "target": "l"}, LessonBody(), None),
    ],
)
def test_a_lesson_is_a_row_of_the_kind_of_the_task(kind: Any, columns: Any, body: LessonBody, row: Any) -> None:
    assert retraining.rows_of([body], kind, Columns(**columns), nested=False) == ([] if row is None else [row])


def test_a_conversation_is_a_row_where_a_cell_may_hold_one() -> None:
    body = BODY.model_copy(update={"messages": TURNS})
    [row] = retraining.rows_of([body], "chat", Columns(messages="m"), nested=True)
    assert row == {"m": [*map(dict, TURNS), {"role": "assistant", "content": "better"}]}
    [row] = retraining.rows_of([body], "chat", Columns(input="t", target="l"), nested=True)
    assert row["t"] == [*map(dict, TURNS)]


def test_of_each_voice_the_first_words_count(record: adapters.AdapterRecord) -> None:
    for number in range(40):
        judge(answered(record, f"q {number}"), key="loud", rating=1 if number % 2 else -1)
        judge(answered(record, f"q {number}"), key=f"key {number}", rating=1)
        judge(answered(record, f"q {number}", subject=f"user-{number}"), key="app", rating=-1)
    said = feedback.words("default", record.created_at)
    assert Counter(word.good for word in said) == {1.0: 40 + 2, 0.0: 40 + 3}, "a user that a key names is a voice"


def test_a_thousand_thumbs_of_one_key_move_no_route(record: adapters.AdapterRecord) -> None:
    for number in range(120):
        told = RouteDecision(
            requested="auto", chosen="b", reason="auto", completion=f"r-{number}", region="a", propensity=1
        )
        logged = {"project": "default", "stream": "inference", "job": f"r-{number}", "kind": "route"}
        events.append([Event(**logged, body=told.model_dump(mode="json"))])
        feedback.put("default", "loud", Feedback(completion=f"r-{number}", rating=1), 1)
    assert feedback.tallies("default") == {("a", "b"): (feedback.KEY_WORDS, 0)}
