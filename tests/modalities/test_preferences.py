"""Tables of preferences: pairs of answers, and answers with a thumb."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Columns, CurationDecision
from moatelier.errors import DataError
from modalities.text import data
from modalities.text.curating import token_counter
from modalities.text.profiling import profile

PAIR = Columns(input="prompt", target="chosen", rejected="rejected")
THUMB = Columns(input="prompt", target="answer", thumb="thumb")


def table(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"What about order {n} of mine?",
            "chosen": f"It comes soon, number {n}.",
            "rejected": f"No idea {n}.",
        }
        for n in range(count)
    ]


def thumbs(count: int, up: Any = True, down: Any = False) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What about order {n} of mine?", "answer": f"It comes soon, {n}.", "thumb": down if n % 4 else up}
        for n in range(count)
    ]


def test_a_table_of_pairs_is_seen_as_preferences(tmp_path: Path) -> None:
    seen = profile(table(tmp_path / "pairs.jsonl", pairs(20)), "pairs.jsonl", "file-1")
    assert seen.kind == "preference" and not seen.problems
    assert {guess.role: guess.column for guess in seen.guesses} == {
        "input": "prompt",
        "target": "chosen",
        "rejected": "rejected",
    }


@pytest.mark.parametrize(("up", "down"), [(True, False), (1, 0), ("yes", "no"), ("up", "down"), ("good", "bad")])
def test_a_table_of_thumbs_is_seen_as_such(tmp_path: Path, up: Any, down: Any) -> None:
    file = table(tmp_path / "thumbs.jsonl", thumbs(20, up, down))
    seen = profile(file, "thumbs.jsonl", "file-1")
    assert seen.kind == "thumbs"
    assert {guess.role: guess.column for guess in seen.guesses} == {
        "input": "prompt",
        "target": "answer",
        "thumb": "thumb",
    }
    rows = data.read_rows(file, "thumbs.jsonl", "thumbs", THUMB)
    assert [row.good for row in rows[:5]] == [True, False, False, False, True]


def test_a_csv_of_pairs_reads_alike(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,chosen,rejected\n" + "".join(f'"Is {n} here?",yes {n},no {n}\n' for n in range(20)))
    assert profile(file, "pairs.csv", "file-1").kind == "preference"
    row = data.read_rows(file, "pairs.csv", "preference", PAIR)[3]
    assert (row.prompt, row.answer, row.rejected, row.label) == ("Is 3 here?", "yes 3", "no 3", None)


def test_texts_with_answers_and_labels_stay_what_they_were(tmp_path: Path) -> None:
    rows = [
        {"text": f"Where is {n} now?", "answer": f"Here it is: {n}.", "label": ("a", "b")[n % 2]} for n in range(20)
    ]
    assert profile(table(tmp_path / "x.jsonl", rows), "x.jsonl", "file-1").kind == "classification"


@pytest.mark.parametrize(("made", "kind", "columns"), [(pairs, "preference", PAIR), (thumbs, "thumbs", THUMB)])
def test_rows_are_written_and_read_back(tmp_path: Path, made: Any, kind: Any, columns: Columns) -> None:
    rows = data.read_rows(table(tmp_path / "x.jsonl", made(20)), "x.jsonl", kind, columns)
    back = data.parse_rows(data.write_rows(rows))
    assert [(row.id, row.rejected, row.good) for row in back] == [(row.id, row.rejected, row.good) for row in rows]
    assert len({row.id for row in rows}) == 20 and data.locked_digest(back) == data.locked_digest(rows)


def test_the_same_answer_liked_and_not_is_two_rows(tmp_path: Path) -> None:
    made = thumbs(8) + [{**thumbs(1)[0], "thumb": False}, thumbs(1)[0]]
    rows = data.read_rows(table(tmp_path / "x.jsonl", made), "x.jsonl", "thumbs", THUMB)
    assert data.find(rows).exact_duplicates == (10,) and len({row.id for row in rows}) == 9


def test_private_data_in_the_rejected_answer_is_found_and_taken_out(tmp_path: Path) -> None:
    made = pairs(12)
    made[4]["rejected"] = "Ask anna.meier@example.org please."
    rows = data.read_rows(table(tmp_path / "x.jsonl", made), "x.jsonl", "preference", PAIR)
    findings = data.find(rows)
    assert [(each.row, each.field, each.kind) for each in findings.private] == [(5, "rejected", "email")]
    fractions: Any = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
    decision = CurationDecision(drop={}, redact=(5,), fractions=fractions, reasons=())
    every = [row for split in data.split(rows, findings, decision, 0).values() for row in split]
    assert not [row for row in every if "anna" in (row.rejected or "")]


def test_the_longer_answer_counts(tmp_path: Path, tiny: str) -> None:
    made = [{**pairs(1)[0], "rejected": "word " * 50}, pairs(2)[1]]
    long, short = data.read_rows(table(tmp_path / "x.jsonl", made), "x.jsonl", "preference", PAIR)
    count = token_counter("tiny")
    assert count(long) > count(short) + 40


@pytest.mark.parametrize(
    ("made", "kind", "columns", "reason"),
    [
        ([{**row, "rejected": row["chosen"]} for row in pairs(3)], "preference", PAIR, "Both answers are the same"),
        ([{**row, "rejected": ""} for row in pairs(3)], "preference", PAIR, "The value is empty"),
        ([{**row, "thumb": "maybe"} for row in thumbs(3)], "thumbs", THUMB, "The value is no thumb"),
        (pairs(3), "preference", Columns(input="prompt", target="chosen"), "No column is named as the rejected"),
        (
            pairs(3),
            "preference",
            PAIR.model_copy(update={"rejected": "chosen"}),
            "cannot be target and rejected at once",
        ),
    ],
)
def test_what_is_no_preference_is_refused(
    tmp_path: Path, made: list[dict[str, Any]], kind: Any, columns: Columns, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        data.read_rows(table(tmp_path / "x.jsonl", made), "x.jsonl", kind, columns)
