"""A read-only look at a file: its columns, what role each may play, and what is wrong with its rows."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moatelier.contracts import ColumnGuess, ColumnProfile, DataProfile, Kind, RowProblem
from modalities.clusters import exact_groups
from modalities.text.duplicates import normalise
from modalities.text.reading import Record, Table, as_text, read_table
from modalities.text.rows import cell_problem, malformed, problem, thumb_of

Role = Literal["input", "target", "messages", "group", "rejected", "thumb"]

_INPUT = {"text", "message", "question", "utterance", "body", "content", "prompt", "query", "input", "review"}
_INPUT |= {"sentence", "instruction", "request", "comment", "email"}
_LABEL = {"label", "intent", "category", "class", "target", "topic", "tag", "sentiment", "labels"}
_ANSWER = {"answer", "output", "response", "completion", "reply", "target"}
_GROUP = {"group", "user", "customer", "conversation", "thread", "session", "author", "account"}

_CHOSEN, _REJECTED = {"chosen", "preferred", "better", "winner"}, {"rejected", "dispreferred", "worse", "loser"}
_THUMB = {"thumb", "thumbs", "liked", "good", "feedback", "accepted", "helpful", "upvoted", "label"}

_MOST_LABELS = 1000
_MOST_PROBLEMS = 50
_TOP = 20


@dataclass(frozen=True, eq=False)
class _Column:
    name: str
    values: list[str]  # filled ones
    lists: int  # how many cells hold a conversation

    @property
    def words(self) -> set[str]:
        return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", self.name)}

    @property
    def unique(self) -> int:
        return len(set(self.values))

    @property
    def mean_words(self) -> float:
        return sum(len(value.split()) for value in self.values) / max(1, len(self.values))

    @property
    def numeric(self) -> bool:
        return bool(self.values) and all(re.fullmatch(r"[-+]?[\d.,:/%$€ -]+", value) for value in self.values)

    @property
    def categorical(self) -> bool:
        short = max(map(len, self.values), default=0) <= 80
        return short and 2 <= self.unique <= min(_MOST_LABELS, len(self.values) // 2)

    @property
    def free_text(self) -> bool:
        return not self.lists and not self.numeric and self.mean_words >= 2 and self.unique > len(self.values) * 0.3


def profile(path: Path, name: str, file_id: str) -> DataProfile:
    """Look at an uploaded file without deciding anything.

    Args:
        path: Where it lies.
        name: What its owner calls it.
        file_id: Its id in the store.

    Raises:
        DataError: It cannot be read as a table at all.
    """
    table = read_table(path, name)
    columns = [_column(table, title) for title in table.columns]
    guesses = _guesses(columns, len(table.records))
    kind = _kind(columns, guesses)
    best = _best_columns(guesses, kind)
    return DataProfile(
        file=file_id,
        name=name,
        format=table.format,
        encoding=table.encoding,
        rows=len(table.records),
        columns=tuple(_profile_column(column) for column in columns),
        guesses=guesses,
        kind=kind,
        exact_duplicates=_duplicates(table.records, best or table.columns),
        problems=_problems(table.records, best, kind),
    )


def _column(table: Table, title: str) -> _Column:
    cells = [record.values.get(title) for record in table.records]
    lists = sum(malformed(cell) is None for cell in cells)
    return _Column(title, [text for cell in cells if (text := _shown(cell))], lists)


def _shown(cell: Any) -> str:
    text = as_text(cell)
    return json.dumps(cell, sort_keys=True) if text is None else text


def _profile_column(column: _Column) -> ColumnProfile:
    counts = Counter(column.values)
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_TOP] if column.categorical else ()
    return ColumnProfile(
        name=column.name,
        filled=len(column.values),
        unique=len(counts),
        mean_chars=round(sum(map(len, column.values)) / max(1, len(column.values)), 1),
        max_chars=max(map(len, column.values), default=0),
        top=tuple(top),
    )


def _guesses(columns: Sequence[_Column], rows: int) -> tuple[ColumnGuess, ...]:
    return _liking_guesses(columns) or _answer_guesses(columns, rows)


def _liking_guesses(columns: Sequence[_Column]) -> tuple[ColumnGuess, ...]:
    """Of a table of preferences: a prompt with two answers, or with one and a thumb; else nothing."""
    texts = [column for column in columns if not column.lists and column.values]
    prompts = [column for column in texts if column.words & _INPUT]
    chosen = [column for column in texts if column.words & _CHOSEN and "non" not in column.words]
    rejected = [column for column in texts if column.words & _REJECTED or {"non", "preferred"} <= column.words]
    if len(prompts) == len(chosen) == len(rejected) == 1 and len({*prompts, *chosen, *rejected}) == 3:
        return (
            _guess("input", prompts[0], 0.95, "what was asked, beside two answers"),
            _guess("target", chosen[0], 0.95, f"the liked answer in a column named {chosen[0].name!r}"),
            _guess("rejected", rejected[0], 0.95, f"the other answer in a column named {rejected[0].name!r}"),
        )
    thumbs = [column for column in texts if column.words & _THUMB and _all_thumbs(column)]
    answers = [column for column in texts if column.free_text and column.words & _ANSWER and column not in prompts]
    if len(prompts) == len(answers) == len(thumbs) == 1:
        return (
            _guess("input", prompts[0], 0.95, "what was asked, beside an answer"),
            _guess("target", answers[0], 0.95, f"the answer in a column named {answers[0].name!r}"),
            _guess("thumb", thumbs[0], 0.95, f"up or down in a column named {thumbs[0].name!r}"),
        )
    return ()


def _all_thumbs(column: _Column) -> bool:
    return {thumb_of(value) for value in column.values} == {True, False}


def _answer_guesses(columns: Sequence[_Column], rows: int) -> tuple[ColumnGuess, ...]:
    found = [guess for column in columns if (guess := _guess_messages(column, rows))]
    texts = [column for column in columns if column.free_text]
    categories = [column for column in columns if column.categorical and not column.free_text]
    targets = [_guess_target(column, len(categories)) for column in categories]
    targets += [_guess_answer(column) for column in texts if column.words & _ANSWER]
    answers = {guess.column for guess in targets}
    inputs = [column for column in texts if column.name not in answers]
    found += _apart([_guess_input(column, len(inputs)) for column in inputs]) + _apart(targets)
    found += [
        _guess_group(column) for column in columns if column.words & _GROUP and column.unique < len(column.values)
    ]
    roles = ("messages", "input", "target", "group")
    return tuple(sorted(found, key=lambda guess: (roles.index(guess.role), -guess.confidence)))


def _guess(role: Role, column: _Column, confidence: float, reason: str) -> ColumnGuess:
    return ColumnGuess(role=role, column=column.name, confidence=round(confidence, 2), reason=reason)


def _guess_messages(column: _Column, rows: int) -> ColumnGuess | None:
    if not column.lists:
        return None
    return _guess("messages", column, column.lists / rows, f"{column.lists} of {rows} rows hold a conversation")


def _guess_input(column: _Column, rivals: int) -> ColumnGuess:
    if column.words & _INPUT:
        return _guess("input", column, 0.95, f"free text in a column named {column.name!r}")
    if rivals == 1:
        return _guess("input", column, 0.8, "the only column with free text")
    return _guess("input", column, 0.5, f"one of {rivals} columns with free text")


def _guess_target(column: _Column, rivals: int) -> ColumnGuess:
    few = f"{column.unique} distinct values"
    if column.words & _LABEL:
        return _guess("target", column, 0.95, f"{few} in a column named {column.name!r}")
    if column.numeric or column.words & _GROUP:
        return _guess("target", column, 0.3, f"{few}, though they look like numbers or names, not categories")
    if rivals == 1:
        return _guess("target", column, 0.8, f"the only column with few distinct values ({column.unique})")
    return _guess("target", column, 0.5, f"{few}, but {rivals} columns are like that")


def _guess_answer(column: _Column) -> ColumnGuess:
    return _guess("target", column, 0.9, f"free text in a column named {column.name!r}")


def _guess_group(column: _Column) -> ColumnGuess:
    return _guess("group", column, 0.7, f"{column.unique} values that come back, in a column named {column.name!r}")


def _apart(guesses: Sequence[ColumnGuess]) -> list[ColumnGuess]:
    # Two equally good candidates make neither a good guess.
    best = max((guess.confidence for guess in guesses), default=0.0)
    tied = [guess for guess in guesses if guess.confidence >= best - 0.04]
    if len(tied) < 2:
        return list(guesses)
    return [
        guess.model_copy(update={"confidence": min(guess.confidence, 0.55)}) if guess in tied else guess
        for guess in guesses
    ]


def _kind(columns: Sequence[_Column], guesses: Sequence[ColumnGuess]) -> Kind | None:
    best = {guess.role: guess for guess in reversed(guesses)}
    if "rejected" in best or "thumb" in best:
        return "preference" if "rejected" in best else "thumbs"
    if "messages" in best and best["messages"].confidence >= 0.5:
        return "chat"
    if "target" not in best or "input" not in best:
        return None
    target = next(column for column in columns if column.name == best["target"].column)
    return "classification" if target.categorical else "chat"


def _best_columns(guesses: Sequence[ColumnGuess], kind: Kind | None) -> tuple[str, ...]:
    best = {guess.role: guess.column for guess in reversed(guesses) if guess.confidence >= 0.5}
    if kind == "chat" and "messages" in best:
        return (best["messages"],)
    liking = [best[role] for role in ("rejected", "thumb") if role in best]
    return (best["input"], best["target"], *liking) if {"input", "target"} <= best.keys() else ()


def _duplicates(records: Sequence[Record], columns: Sequence[str]) -> int:
    keys = (tuple(normalise(_shown(record.values.get(column))) for column in columns) for record in records)
    return sum(len(group) - 1 for group in exact_groups(keys))


def _problems(records: Sequence[Record], columns: Sequence[str], kind: Kind | None) -> tuple[RowProblem, ...]:
    found: list[RowProblem] = []
    for record in records:
        for column in columns:
            if len(columns) == 1 and kind == "chat":
                reason = malformed(record.values.get(column))
                issue = problem(record, column, reason, "Repair or delete the row.") if reason else None
            else:
                issue = cell_problem(record, column)
            if issue:
                found.append(issue)
        if len(found) >= _MOST_PROBLEMS:
            break
    return tuple(found)
