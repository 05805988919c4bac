"""Profiles of invented files, and the planner called on them."""

from collections.abc import Sequence
from typing import Any, Literal

from agents.planner import Defaults, plan
from moatelier.contracts import ColumnGuess, ColumnProfile, DataProfile, Kind, Question, TaskPlan

DEFAULTS = Defaults(
    base="smollm2-135m-instruct", bases=("smollm2-135m-instruct", "tiny", "pico-9m"), trials=3, seconds=1800
)

Guess = tuple[Literal["input", "target", "messages", "group"], str, float]


def column(name: str, unique: int = 12, longest: int = 20, rows: int = 900) -> ColumnProfile:
    return ColumnProfile(name=name, filled=rows, unique=unique, mean_chars=longest / 2, max_chars=longest)


def profile(
    columns: Sequence[ColumnProfile],
    guesses: Sequence[Guess],
    *,
    kind: Kind | None = "classification",
    name: str = "support.csv",
    **fields: Any,
) -> DataProfile:
    return DataProfile(
        file="file-train",
        name=name,
        format="jsonl" if name.endswith("jsonl") else "csv",
        encoding="utf-8",
        rows=900,
        columns=tuple(columns),
        guesses=tuple(ColumnGuess(role=r, column=c, confidence=s, reason="it looks so") for r, c, s in guesses),
        kind=kind,
        exact_duplicates=fields.pop("exact_duplicates", 0),
        **fields,
    )


SUPPORT = profile(
    [column("ticket", 900), column("channel", 3), column("message", 880, 300), column("intent")],
    [("input", "message", 0.95), ("target", "intent", 0.95), ("target", "channel", 0.5)],
)
BANK = profile(
    [column("text", 900, 200), column("category", 77)],
    [("input", "text", 0.95), ("target", "category", 0.95)],
    name="train.csv",
)
TEAMS = profile(
    [column("body", 900, 400), column("team", 6), column("queue", 7)],
    [("input", "body", 0.95), ("target", "team", 0.5), ("target", "queue", 0.5)],
    name="tickets.csv",
)
CHAT = profile([column("messages", 900, 900)], [("messages", "messages", 1.0)], kind="chat", name="assistant.jsonl")
ANSWERS = profile(
    [column("question", 900, 200), column("answer", 890, 500)],
    [("input", "question", 0.95), ("target", "answer", 0.9)],
    kind="chat",
    name="faq.csv",
)


def outcome(
    *messages: str, data: DataProfile | None = SUPPORT, test: DataProfile | None = None, **keywords: Any
) -> TaskPlan | tuple[Question, ...]:
    """What the planner makes of messages."""
    return plan(
        messages,
        data,
        test,
        train_file="file-train" if data else None,
        test_file="file-test" if test else None,
        defaults=keywords.pop("defaults", DEFAULTS),
        **keywords,
    )


def planned(*messages: str, **keywords: Any) -> TaskPlan:
    """The plan; fails when something is asked."""
    result = outcome(*messages, **keywords)
    assert isinstance(result, TaskPlan), result
    return result


def questions(*messages: str, **keywords: Any) -> dict[str, Question]:
    """What is asked, by field; fails when nothing is."""
    result = outcome(*messages, **keywords)
    assert isinstance(result, tuple), result
    assert result, "an empty tuple is no outcome"
    return {question.field: question for question in result}
