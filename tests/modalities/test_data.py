import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Columns, CurationDecision, Kind, PrivateFinding
from moatelier.errors import DataError
from modalities.text import data

TOPICS = {
    "track": "where is the parcel that you sent me in week",
    "refund": "please give me the money back for purchase",
    "cancel": "stop the order before it is packed under number",
}
PAIR = Columns(input="text", target="label")
CHAT = Columns(messages="messages")
BANKING = Path(__file__).parents[3] / "shared" / "data" / "banking77"


def lines(count: int = 12) -> list[str]:
    """Rows of three classes whose texts share too few words to be near duplicates."""
    return [
        f"{text} {'abcdefghijklmnopqrstuvwxyz'[i]}{i} {i}x {i}y {i}z {i}w,{label}"
        for i in range(count)
        for label, text in TOPICS.items()
    ]


def csv_rows(tmp_path: Path, body: list[str], name: str = "rows.csv") -> list[data.Row]:
    path = tmp_path / name
    path.write_text("text,label\n" + "\n".join(body) + "\n", encoding="utf-8")
    return data.read_rows(path, name, "classification", PAIR)


def chat_file(tmp_path: Path, values: list[Any]) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps({"messages": value}) + "\n" for value in values), encoding="utf-8")
    return path


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def refused(match: str, rows: list[data.Row], **options: Any) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        data.find(rows, **options)
    assert caught.value.where and caught.value.remedy
    return caught.value


# ---------------------------------------------------------------- rows


def test_a_labelled_row_is_three_messages_and_names_no_labels(tmp_path: Path) -> None:
    row = csv_rows(tmp_path, ["  Where is it? ,track", "Refund me,refund"])[0]
    assert row.messages == (
        {"role": "system", "content": data.SYSTEM["classification"]},
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "track"},
    )
    assert (row.number, row.line, row.label, row.group) == (1, 2, "track", None)
    assert not any(label in data.SYSTEM["classification"] for label in TOPICS)


def test_ids_are_of_the_content_alone(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, ["a text,x", "b text,y", "a text,x", "a text,y"])
    assert rows[0].id == rows[2].id != rows[3].id and len(rows[0].id) == 16


def test_chat_rows_get_a_system_message_unless_they_bring_one(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Be brief."}, *turns("Hi", "Hello", "Bye", "Goodbye")]
    rows = data.read_rows(chat_file(tmp_path, [turns("Hi", "Hello"), own]), "chat.jsonl", "chat", CHAT)
    assert rows[0].messages[0]["content"] == data.SYSTEM["chat"] and rows[1].messages[0]["content"] == "Be brief."
    assert rows[1].prompt == "Hi\nHello\nBye" and rows[1].answer == "Goodbye" and rows[1].label is None


def test_two_text_columns_make_chat_rows(tmp_path: Path) -> None:
    path = tmp_path / "qa.csv"
    path.write_text("question,answer\nWhat is two and two?,Four.\nAnd three and three?,Six.\n")
    row = data.read_rows(path, "qa.csv", "chat", Columns(input="question", target="answer"))[0]
    assert row.label is None and row.answer == "Four."


def test_groups_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,user\na,x,7\nb,y,\n")
    columns = Columns(input="text", target="label", group="user")
    assert [row.group for row in data.read_rows(path, "rows.csv", "classification", columns)] == ["7", None]


def test_a_split_is_written_and_read_back_even_with_odd_line_breaks(tmp_path: Path) -> None:
    path = chat_file(tmp_path, [turns("one\u2028two\x85three\nfour", "yes"), turns("b", "ä")])
    rows = data.read_rows(path, "chat.jsonl", "chat", CHAT)
    written = data.write_rows(rows)
    assert len(written.decode().splitlines()) == 2
    again = data.parse_rows(written)
    assert [(r.id, r.number, r.messages) for r in again] == [(r.id, r.number, r.messages) for r in rows]
    assert list(json.loads(written.splitlines()[0])) == ["group", "id", "label", "messages", "row"]


def test_the_locked_digest_knows_content_not_order(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, lines())
    assert data.locked_digest(rows) == data.locked_digest(rows[::-1])
    assert data.locked_digest(rows) != data.locked_digest(rows[1:])


# ---------------------------------------------------------------- rows that are refused


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        (Columns(input="txet", target="label"), "no column 'txet'"),
        (Columns(input="text"), "No column is named as the target"),
        (Columns(target="label"), "No column is named as the input"),
        (Columns(input="text", target="text"), "input and target at once"),
        (Columns(input="text", target="label", group="user"), "no column 'user'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: Columns, what: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match=what) as caught:
        data.read_rows(path, "rows.csv", "classification", columns)
    assert "text" in caught.value.remedy


def test_a_near_column_name_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("message,label\na,x\nb,y\n")
    with pytest.raises(DataError) as caught:
        data.read_rows(path, "rows.csv", "classification", Columns(input="mesage", target="label"))
    assert "Did you mean 'message'?" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("hello", "not a list"),
        ([], "not a list"),
        (["hello"], "Message 1 is not an object"),
        ([{"from": "human", "value": "hi"}], "Message 1 has no 'role', only 'from', 'value'"),
        ([{"role": "human", "content": "hi"}], "the role 'human'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "not one string"),
        ([{"role": "user", "content": "\ud800"}], "not one string of valid Unicode"),
        (turns("hi"), "last message is not the assistant's"),
        (turns("hi", "yes", "and"), "last message is not the assistant's"),
        (turns("hi", "yes") + turns("a", "b")[1:], "Message 3 is the assistant's where the user's turn is due"),
        ([{"role": "system", "content": "s"}], "last message is not the assistant's"),
        ([*turns("hi"), {"role": "assistant", "content": "x", "tool_calls": [{}]}], "calls tools"),
    ],
)
def test_malformed_messages_are_refused_with_their_place(tmp_path: Path, value: Any, what: str) -> None:
    path = chat_file(tmp_path, [turns("a", "b"), value])
    with pytest.raises(DataError, match=what) as caught:
        data.read_rows(path, "chat.jsonl", "chat", CHAT)
    assert caught.value.where == "chat.jsonl, row 2, line 2, field messages" and caught.value.remedy


def test_single_empty_cells_are_reported_not_refused(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, [*lines(), ",track", "no target here at all,"])
    found = data.find(rows)
    assert [(p.row, p.field, p.line) for p in found.problems] == [(37, "text", 38), (38, "label", 39)]
    assert found.rows == 38 and sum(found.labels.values()) == 36


def test_an_empty_message_is_reported(tmp_path: Path) -> None:
    values = [turns(f"question {i} about {i} lamps in {i}", "an answer") for i in range(6)] + [turns("hi", " ")]
    rows = data.read_rows(chat_file(tmp_path, values), "chat.jsonl", "chat", CHAT)
    assert [(p.row, p.field) for p in data.find(rows).problems] == [(7, "messages[1].content")]


def test_mostly_missing_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 4 rows cannot be used") as caught:
        csv_rows(tmp_path, ["a,x", "b,", "c,", "d,"])
    assert caught.value.where == "rows.csv, row 2, line 3, field label"


# ---------------------------------------------------------------- findings


def test_duplicates_and_conflicts(tmp_path: Path) -> None:
    body = lines()
    text = body[0].rsplit(",", 1)[0]
    rows = csv_rows(tmp_path, [*body, f"{text.upper()},track", f"{text} please,track", f"{text},refund"])
    found = data.find(rows)
    assert found.exact_duplicates == (37,)
    assert found.conflicting == (1, 37, 39)
    assert found.clusters == ((1, 37, 38, 39),)


def test_two_answers_to_one_question_do_not_conflict(tmp_path: Path) -> None:
    values = [turns(f"question {i} about {i} lamps in {i}", "an answer") for i in range(6)]
    rows = data.read_rows(
        chat_file(tmp_path, [*values, turns(values[0][0]["content"], "other")]), "c.jsonl", "chat", CHAT
    )
    found = data.find(rows)
    assert found.conflicting == () and found.clusters == ((1, 7),) and found.labels == {} and found.suspicious == ()


def test_private_data_is_reported_without_the_datum(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, [*lines(), "I am ida@example.net and wait for a parcel,track"])
    found = data.find(rows)
    assert found.private == (PrivateFinding(row=37, field="input", kind="email", action="allowed"),)
    assert "ida" not in found.model_dump_json()


def test_rows_that_differ_in_private_data_only_are_the_same_once_it_is_redacted(tmp_path: Path) -> None:
    more = ["Please send the receipt to ann@example.net,refund", "Please send the receipt to b.o@mail.org,refund"]
    more += ["Please send the receipt to cy@example.com,track"]
    rows = csv_rows(tmp_path, [*lines(), *more])
    assert not {37, 38, 39} & set(data.find(rows).exact_duplicates + data.find(rows).conflicting)
    found = data.find(rows, redacted=True)
    assert 38 in found.exact_duplicates and {37, 38, 39} <= set(found.conflicting)
    locked = csv_rows(tmp_path, ["Please send the receipt to dee@example.org,refund"], "test.csv")
    assert {37, 38, 39} <= set(data.find(rows, test_rows=locked, redacted=True).near_test)


def test_long_rows_are_counted_by_the_tokens_given(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, [*lines(), "short one,track"])
    found = data.find(rows, count_tokens=lambda row: len(row.prompt.split()), max_tokens=10)
    assert found.too_long == tuple(range(1, 37))
    assert data.find(rows).too_long == ()


def test_rows_near_a_locked_row(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, lines())
    text = lines()[4].rsplit(",", 1)[0]
    test = csv_rows(tmp_path, [f"{text} please,refund", "a new thing to ask about lamps,track"], "test.csv")
    found = data.find(rows, test_rows=test)
    assert found.near_test == (5,)


def test_the_report_says_what_became_of_the_rows(tmp_path: Path) -> None:
    extra = ["I am ida@example.net and wait,track", "bo@example.net wants money,refund", ",track"]
    found = data.find(csv_rows(tmp_path, [*lines(), *extra]))
    decision = CurationDecision(drop={38: "holds private data"}, redact=(37,), fractions={"train": 1}, reasons=("r",))
    report = data.report(found, decision, data.token_lengths([3, 5, 10]))
    assert [(p.row, p.action) for p in report.private] == [(37, "redacted"), (38, "rejected")]
    assert (report.rows_read, report.rows_kept) == (39, 37) and set(report.dropped) == {38, 39}
    assert report.token_lengths == {"mean": 6.0, "p50": 5.0, "p95": 9.5, "max": 10.0}


# ---------------------------------------------------------------- data that cannot make a dataset


def test_one_label_only(tmp_path: Path) -> None:
    refused("same target, 'x'", csv_rows(tmp_path, [f"text {i} {i}a {i}b,x" for i in range(9)]))


def test_a_class_with_one_row_is_named(tmp_path: Path) -> None:
    error = refused("class 'odd' has only one row", csv_rows(tmp_path, [*lines(), "something else,odd"]))
    assert error.where == "rows.csv, row 37, line 38"


def test_a_class_of_copies_is_named(tmp_path: Path) -> None:
    refused("only one row and 2 copies of it", csv_rows(tmp_path, [*lines(), *["something else,odd"] * 3]))


def test_labels_that_differ_in_case(tmp_path: Path) -> None:
    error = refused("differ only in case", csv_rows(tmp_path, [*lines(), "a b c,Track", "d e f,Track"]))
    assert "'track' (12 rows)" in error.what and "'Track' (2 rows)" in error.what


def test_nothing_but_duplicates(tmp_path: Path) -> None:
    values = [turns("How do I return the lamp that I bought?", "Send it back.")] * 30
    rows = data.read_rows(chat_file(tmp_path, values), "chat.jsonl", "chat", CHAT)
    refused("duplicates: of 30, 1 differ", rows)


def test_locked_rows_nobody_could_answer(tmp_path: Path) -> None:
    rows = csv_rows(tmp_path, lines())
    typo = csv_rows(tmp_path, ["a b,track", "c d,refnd"], "test.csv")
    error = refused("test label 'refnd' never stands", rows, test_rows=typo)
    with pytest.raises(DataError, match="test label 'refnd'"):
        data.check(rows, typo)  # before anything is fetched or approved
    assert error.where == "test.csv, row 2, line 3" and "Did you mean 'refund'?" in error.remedy
    hole = csv_rows(tmp_path, ["a b,track", ",refund"], "test.csv")
    refused("test row cannot be used", rows, test_rows=hole)
    long = csv_rows(tmp_path, ["a b,track", "c d e f,refund"], "test.csv")
    refused("4 tokens, where 3 fit", rows, test_rows=long, count_tokens=lambda r: len(r.prompt.split()), max_tokens=3)


# ---------------------------------------------------------------- profile


@pytest.mark.parametrize(
    ("name", "text", "kind", "expected"),
    [
        ("a.csv", "text,label\n" + "\n".join(lines()), "classification", {"input": "text", "target": "label"}),
        ("b.csv", "foo,bar\n" + "\n".join(lines()), "classification", {"input": "foo", "target": "bar"}),
        ("c.csv", "question,answer\nWhat is a lamp?,A light.\nAnd a rug then?,A floor cloth.\n", "chat",
         {"input": "question", "target": "answer"}),
        ("d.jsonl", json.dumps({"messages": turns("a", "b")}) + "\n", "chat", {"messages": "messages"}),
        ("e.csv", "price,amount\n1,2\n3,4\n", None, {}),
    ],
)  # fmt: skip
def test_what_a_file_is_for(tmp_path: Path, name: str, text: str, kind: Kind | None, expected: dict[str, str]) -> None:
    path = tmp_path / name
    path.write_text(text)
    profile = data.profile(path, name, "file-1")
    best = {guess.role: guess.column for guess in reversed(profile.guesses) if guess.confidence >= 0.6}
    assert profile.kind == kind and best == expected and profile.file == "file-1"


def test_two_equally_good_targets_are_no_good_guess(tmp_path: Path) -> None:
    body = [f"{line},{'p' if i % 2 else 'q'}" for i, line in enumerate(lines())]
    path = tmp_path / "rows.csv"
    path.write_text("text,category,topic\n" + "\n".join(body))
    guesses = [g for g in data.profile(path, "rows.csv", "f").guesses if g.role == "target"]
    assert {g.column for g in guesses} == {"category", "topic"} and all(g.confidence < 0.6 for g in guesses)


def test_the_profile_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "id,text,label,user\n" + "".join(f"{i},{x},u{i % 3}\n" for i, x in enumerate([*lines(), lines()[0]]))
    )
    profile = data.profile(path, "rows.csv", "f")
    columns = {column.name: column for column in profile.columns}
    assert profile.rows == 37 and profile.exact_duplicates == 1
    assert columns["label"].unique == 3 and columns["label"].top[0] == ("track", 13)
    assert columns["text"].top == () and columns["id"].unique == 37
    assert [g.column for g in profile.guesses if g.role == "group"] == ["user"]


def test_the_profile_lists_problems_without_refusing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "\n".join([*lines(), ",track", "x,"]))
    assert [(p.row, p.field) for p in data.profile(path, "rows.csv", "f").problems] == [(37, "text"), (38, "label")]
    chat = chat_file(tmp_path, [turns("a", "b"), turns("c", "d"), turns("e")])
    profile = data.profile(chat, "chat.jsonl", "f")
    assert profile.kind == "chat" and [p.row for p in profile.problems] == [3]


def test_importing_the_face_needs_no_torch() -> None:
    code = "import sys, modalities.text.data; print('torch' in sys.modules, 'presidio_analyzer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


@pytest.mark.slow
@pytest.mark.skipif(not BANKING.exists(), reason="the banking77 data of ../shared is not here")
def test_real_data() -> None:
    columns = Columns(input="text", target="category")
    train, test = (
        data.read_rows(BANKING / name, name, "classification", columns) for name in ("train.csv", "test.csv")
    )
    assert (len(train), len(test)) == (10_003, 3_080) and not any(row.problem for row in train + test)
    found = data.find(train, test_rows=test)
    assert len(found.labels) == 77 and "Refund_not_showing_up" in found.labels
    assert len(found.exact_duplicates) == 4 and 50 <= len(found.near_test) <= 120 and len(found.private) <= 5
    drop = dict.fromkeys(found.exact_duplicates + found.near_test, "x")
    decision = CurationDecision(drop=drop, fractions={"train": 0.8, "dev": 0.1, "select": 0.1}, reasons=())
    splits = data.split(train, found, decision, 0, test)
    assert all(len({row.label for row in rows}) == 77 for rows in splits.values())
