"""A table's records as rows of messages, the one form that training, evaluation and serving share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from rapidfuzz import process

from moatelier.contracts import Columns, Kind, RowProblem
from moatelier.errors import DataError
from moatelier.ids import digest_json
from modalities.checks import refuse_unusable
from modalities.text.reading import Record, Table, as_text, place

Message = dict[str, str]

SYSTEM: dict[Kind, str] = {
    "classification": "Name the category of the message.",
    "chat": "You are a helpful assistant.",
    "preference": "You are a helpful assistant.",
    "thumbs": "You are a helpful assistant.",
}
"""The system message of rows that bring none. It names no labels, so that prompts stay short."""

_ROLES = ("system", "user", "assistant")
_THUMBS = dict.fromkeys(("true", "1", "1.0", "yes", "up", "good", "+1", "\U0001f44d"), True)
_THUMBS |= dict.fromkeys(("false", "0", "0.0", "no", "down", "bad", "-1", "\U0001f44e"), False)
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "preference": ("input", "target", "rejected"),
    "thumbs": ("input", "target", "thumb"),
}


@dataclass(frozen=True)
class Row:
    """One example: a system message, the turns, and last the assistant's answer.

    Attributes:
        number: Data row in its file, from 1.
        messages: `{"role", "content"}` each; empty when `problem` is set.
        label: The answer, for classification.
        group: Rows of one group stay in one split.
        file: What the owner calls the file.
        line: The file's line the row starts on, from 1.
        problem: Why the row cannot be used at all.
        rejected: The answer that is liked less than the last message, for preferences.
        good: Whether the last message is a good answer, for thumbs.
    """

    number: int
    messages: tuple[Message, ...]
    label: str | None = None
    group: str | None = None
    file: str = ""
    line: int = 0
    problem: RowProblem | None = None
    rejected: str | None = None
    good: bool | None = None

    @property
    def id(self) -> str:
        """16 hex digits, a hash of messages, label and liking: equal content has equal ids."""
        return digest_json([list(self.messages), self.label, *self.liking])[:16]

    @property
    def liking(self) -> tuple[str | bool, ...]:
        """What is said of the answer, or nothing."""
        return tuple(each for each in (self.rejected, self.good) if each is not None)

    @property
    def prompt(self) -> str:
        """What the answer answers: every turn but the system message and the last."""
        return "\n".join(message["content"] for message in self.messages[1:-1])

    @property
    def answer(self) -> str:
        """The last message, which is the assistant's."""
        return self.messages[-1]["content"]

    @property
    def place(self) -> str:
        """File, row and line, for messages."""
        return place(self.file, self.number, self.line)


def build_rows(table: Table, kind: Kind, columns: Columns) -> list[Row]:
    """The rows of a table. A row with an empty input, target or message has its `problem` set.

    Args:
        table: The file as read.
        kind: `classification` needs the columns `input` and `target`; `chat` needs `messages`, or both of these.
        columns: Which column plays which role.

    Raises:
        DataError: A column is unknown or missing, messages are malformed, or most rows cannot be used.
    """
    _check_columns(table, kind, columns)
    build = _chat_row if kind == "chat" and columns.messages else _pair_row
    rows = [build(table.name, record, kind, columns) for record in table.records]
    refuse_unusable(rows)
    return rows


def problem(record: Record, field: str, reason: str, remedy: str) -> RowProblem:
    """A problem at a record."""
    return RowProblem(row=record.number, line=record.line, field=field, reason=reason, remedy=remedy)


def text_problem(record: Record, field: str) -> RowProblem | None:
    """What keeps a cell from being used as text, if anything."""
    text = as_text(record.values.get(field))
    if text is None:
        return problem(record, field, "The value is not text.", "Write one string of valid Unicode.")
    if not text:
        return problem(record, field, "The value is empty.", "Fill it in or delete the row.")
    return None


def _check_columns(table: Table, kind: Kind, columns: Columns) -> None:
    named = {role: column for role, column in columns.model_dump().items() if column is not None}
    for role, column in named.items():
        if column not in table.columns:
            near = process.extractOne(column, table.columns, score_cutoff=60)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"There is no column {column!r} to be the {role}.",
                where=table.name,
                remedy=f"{hint}The columns are {', '.join(table.columns)}.",
            )
    needed = () if kind == "chat" and columns.messages else _NEEDED.get(kind, ("input", "target"))
    for role in needed:
        if role not in named:
            raise DataError(
                f"No column is named as the {role} of a {kind} task.",
                where=table.name,
                remedy=f"Name one of {', '.join(table.columns)}.",
            )
    twice = next((pair for pair in combinations(needed, 2) if named[pair[0]] == named[pair[1]]), None)
    if twice:
        raise DataError(
            f"The column {named[twice[0]]!r} cannot be {twice[0]} and {twice[1]} at once.",
            where=table.name,
            remedy=f"Name two of {', '.join(table.columns)}.",
        )


def _group(record: Record, columns: Columns) -> str | None:
    return (as_text(record.values.get(columns.group)) or None) if columns.group else None


def _pair_row(name: str, record: Record, kind: Kind, columns: Columns) -> Row:
    assert columns.input and columns.target  # held by _check_columns
    found = cell_problem(record, columns.input) or text_problem(record, columns.target)
    found = found or _liking_problem(record, kind, columns)
    if found:
        return Row(record.number, (), file=name, line=record.line, problem=found)
    answer = as_text(record.values[columns.target]) or ""
    messages = (*_asked(record.values[columns.input], kind), {"role": "assistant", "content": answer})
    label = answer if kind == "classification" else None
    row = Row(record.number, messages, label, _group(record, columns), name, record.line)
    if columns.rejected and kind == "preference":
        return replace(row, rejected=as_text(record.values[columns.rejected]))
    return replace(row, good=thumb_of(record.values[columns.thumb])) if columns.thumb and kind == "thumbs" else row


def cell_problem(record: Record, field: str) -> RowProblem | None:
    """What keeps a cell from being a prompt: a text, or turns that end with the user's."""
    value = record.values.get(field)
    if not isinstance(value, list):
        return text_problem(record, field)
    if reason := malformed([*value, {"role": "assistant", "content": "..."}]):
        return problem(record, field, reason, 'Write a text, or {"messages": [...]} that ends with the user\'s turn.')
    empty = not all(as_text(turn["content"]) for turn in value)
    return problem(record, field, "A message is empty.", "Fill it in or delete the row.") if empty else None


def _asked(value: Any, kind: Kind) -> tuple[Message, ...]:
    """The turns before the answer, a system message first."""
    if not isinstance(value, list):
        value = [{"role": "user", "content": value}]
    turns = [{"role": turn["role"], "content": as_text(turn["content"]) or ""} for turn in value]
    system = () if turns[0]["role"] == "system" else ({"role": "system", "content": SYSTEM[kind]},)
    return (*system, *turns)


def thumb_of(value: Any) -> bool | None:
    """What a cell says of an answer, if it does."""
    text = as_text(value)
    return None if text is None else _THUMBS.get(text.lower())


def _liking_problem(record: Record, kind: Kind, columns: Columns) -> RowProblem | None:
    if kind == "preference":
        assert columns.rejected and columns.target  # held by _check_columns
        if found := text_problem(record, columns.rejected):
            return found
        if as_text(record.values[columns.rejected]) == as_text(record.values[columns.target]):
            return problem(record, columns.rejected, "Both answers are the same.", "Give two that differ.")
    if kind == "thumbs":
        assert columns.thumb
        if thumb_of(record.values.get(columns.thumb)) is None:
            return problem(record, columns.thumb, "The value is no thumb.", "Write true or false.")
    return None


def _chat_row(name: str, record: Record, kind: Kind, columns: Columns) -> Row:
    assert columns.messages  # held by the caller
    value: Any = record.values.get(columns.messages)
    if columns.target and isinstance(value, list):  # what is asked and what is right stand apart
        value = [*value, {"role": "assistant", "content": reference(record.values.get(columns.target))}]
    if reason := malformed(value):
        raise DataError(
            reason,
            where=place(name, record.number, record.line, columns.messages),
            remedy='Write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        )
    turns = [{"role": turn["role"], "content": as_text(turn["content"]) or ""} for turn in value]
    empty = next((index for index, turn in enumerate(turns) if not turn["content"]), None)
    if empty is not None:
        field = f"{columns.messages}[{empty}].content"
        found = problem(record, field, "The message is empty.", "Fill it in or delete the row.")
        return Row(record.number, (), file=name, line=record.line, problem=found)
    if turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": SYSTEM[kind]})
    return Row(record.number, tuple(turns), None, _group(record, columns), name, record.line)


def reference(value: Any) -> str:
    """What an answer is compared with: a text as it is, anything else as JSON."""
    text = as_text(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if text is None else text


def malformed(value: Any) -> str | None:
    """Why a value is no conversation that ends with the assistant's answer; None when it is one."""
    if not isinstance(value, list) or not value:
        return "The messages are not a list of objects."
    for index, turn in enumerate(value):
        if reason := _malformed_turn(turn):
            return f"Message {index + 1} {reason}."
    return _malformed_order([turn["role"] for turn in value])


def _malformed_turn(turn: Any) -> str | None:
    if not isinstance(turn, dict):
        return "is not an object"
    for key in ("role", "content"):
        if key not in turn:
            return f"has no {key!r}, only {', '.join(map(repr, turn)) or 'nothing'}"
    if turn["role"] not in _ROLES:
        return f"has the role {turn['role']!r}, which is none of {', '.join(_ROLES)}"
    if not isinstance(turn["content"], str) or as_text(turn["content"]) is None:
        return "has a content that is not one string of valid Unicode"
    if turn.get("weight") == 0 and turn["role"] == "assistant":
        return "has the weight 0, and every answer of a conversation is learnt; leave the turns before it to the prompt"
    return "calls tools, which text adapters cannot learn yet" if turn.get("tool_calls") else None


def _malformed_order(roles: Sequence[str]) -> str | None:
    turns = list(roles[1:] if roles[0] == "system" else roles)
    for index, role in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if role != expected:
            return f"Message {len(roles) - len(turns) + index + 1} is the {role}'s where the {expected}'s turn is due."
    if len(turns) < 2 or turns[-1] != "assistant":
        return "The last message is not the assistant's."
    return None
