"""Rows as OpenAI's fine-tuning files hold them."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Columns
from moatelier.errors import DataError
from modalities.text import data
from modalities.text.profiling import profile


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(number: int) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"hello, say number {number}"}], "tools": []},
        "preferred_output": [{"role": "assistant", "content": f"gladly: {number}"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }


def test_pairs_are_recognised_and_their_prompts_stay_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    long = pair(9) | {"input": {"messages": [*turns, {"role": "user", "content": "and now?"}]}}
    file = lines(tmp_path / "pairs.jsonl", *[pair(number) for number in range(8)], long)
    seen = profile(file, "pairs.jsonl", "file-1")
    assert seen.kind == "preference" and seen.problems == ()
    roles = {guess.role: guess.column for guess in seen.guesses}
    assert roles == {"input": "input", "target": "preferred_output", "rejected": "non_preferred_output"}
    rows = data.read_rows(file, "pairs.jsonl", "preference", Columns.model_validate(roles))
    assert (rows[0].prompt, rows[0].answer, rows[0].rejected) == ("hello, say number 0", "gladly: 0", "no")
    assert [turn["role"] for turn in rows[8].messages] == ["system", "user", "assistant", "user", "assistant"]


def test_developers_and_parts_of_text_are_read_as_our_models_know_them(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "two and two?"}]},
        {"role": "assistant", "content": "Four."},
    ]
    file = lines(tmp_path / "chat.jsonl", {"messages": messages})
    (row,) = data.read_rows(file, "chat.jsonl", "chat", Columns(messages="messages"))
    assert row.messages[0] == {"role": "system", "content": "Be short."} and row.prompt == "What is two and two?"


def test_an_answer_that_must_not_be_learnt_is_refused_and_not_learnt_silently(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    file = lines(tmp_path / "chat.jsonl", {"messages": messages})
    with pytest.raises(DataError, match="weight 0"):
        data.read_rows(file, "chat.jsonl", "chat", Columns(messages="messages"))


def test_what_is_right_may_stand_in_a_column_of_its_own(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "2 + 2"}], "reference": 4}
    file = lines(tmp_path / "asked.jsonl", row, row | {"reference": {"sum": 4}})
    columns = Columns(messages="messages", target="reference")
    assert [row.answer for row in data.read_rows(file, "asked.jsonl", "chat", columns)] == ["4", '{"sum": 4}']


def test_a_prompt_that_ends_with_an_answer_is_a_problem_of_its_row(tmp_path: Path) -> None:
    odd = pair(3) | {"input": {"messages": [{"role": "assistant", "content": "hello"}]}}
    file = lines(tmp_path / "pairs.jsonl", pair(1), pair(2), odd)
    columns = Columns(input="input", target="preferred_output", rejected="non_preferred_output")
    rows = data.read_rows(file, "pairs.jsonl", "preference", columns)
    assert [row.problem is None for row in rows] == [True, True, False]
