"""Rows as they are evaluated, and how long an answer to them may be. Imports no torch: whoever only asks needs none."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from moatelier.contracts import DatasetCard, Kind, SplitName
from moatelier.errors import DataError
from moatelier.ids import canonical_json
from modalities import registry
from modalities.imagetext.data import rows_of as question_rows
from modalities.text.duplicates import normalise
from store import artifacts

SPARE_TOKENS: Mapping[Kind, int] = {kind: 2 if kind == "classification" else 8 for kind in get_args(Kind)}
"""An answer may be this much longer than the longest expected one before it is cut: a label and its stop token."""
LONGEST_ANSWER = 512
"""Upper bound for the tokens of a chat answer."""


@dataclass(frozen=True)
class EvalRow:
    """A row as it is evaluated: the messages a model sees, and what it should answer.

    A picture or a recording is the one part of a message: `{"type": "image", "artifact": "<digest>"}`, or `audio`.
    Where a label is to be told of a recording, `"goal": "label"` stands beside it.
    """

    id: str
    prompt: tuple[dict[str, Any], ...]
    truth: str
    group: str | None = None
    """Rows of one group are kept in one split, and are no independent draws; of recordings it is who speaks."""
    rejected: str | None = None
    """An answer that is liked less than the truth."""
    good: bool | None = None
    """Whether the truth is an answer that is liked."""

    @property
    def media(self) -> tuple[str, ...]:
        """The artifacts of its pictures and recordings."""
        held = [part for turn in self.prompt if isinstance(turn["content"], list) for part in turn["content"]]
        return tuple(part["artifact"] for part in held if "artifact" in part)

    @property
    def asks(self) -> tuple[str, ...]:
        """What makes it the same question as another row's: its media, or without any its words, plainly written."""
        return self.media or (normalise("\n".join(t["content"] for t in self.prompt if t["role"] != "system")),)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The whole row as training renders it."""
        return [*self.prompt, {"role": "assistant", "content": self.truth}]


def read_rows(data: bytes) -> list[EvalRow]:
    """Parse a split's JSON lines, in the order of their ids: batches must not depend on the order in a file."""
    # Bytes: a row's text may hold characters at which text would be split.
    rows = [_row(json.loads(line)) for line in data.split(b"\n") if line]
    return sorted(rows, key=lambda row: (row.id, canonical_json(row.messages)))


def _row(row: Mapping[str, Any]) -> EvalRow:
    modality = registry.of_row(row).name
    if modality == "vision":
        part = {"type": "image", "artifact": row["image"]}
        return EvalRow(row["id"], _asked(part), row["label"] or row["caption"], row["group"])
    if modality == "audio":
        part = {"type": "audio", "artifact": row["audio"]} | ({"goal": "label"} if row["label"] else {})
        return EvalRow(row["id"], _asked(part), row["label"] or row["text"], row["speaker"] or row["source"])
    if modality == "imagetext":
        [asked] = question_rows([row])
        return EvalRow(asked.id, tuple(asked.prompt), asked.answer, asked.group)
    *prompt, answer = row["messages"]
    liking = {"rejected": row.get("rejected"), "good": row.get("good")}
    return EvalRow(row["id"], tuple(prompt), answer["content"], row.get("group"), **liking)


def _asked(part: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": [part]},)


def split_rows(card: DatasetCard, split: SplitName) -> list[EvalRow]:
    """The rows of a split that has an artifact: any but the locked one.

    Raises:
        DataError: There are none.
    """
    info = card.splits.get(split)
    if info is None or info.artifact is None or info.rows == 0:
        raise DataError(
            f"The dataset has no {split} rows.", where=card.name, remedy="Give more rows, so that each split gets some."
        )
    return read_rows(artifacts.get_bytes(info.artifact))


def answer_limit(
    lengths: Callable[[list[str]], list[int]], kind: Kind, labels: Sequence[str], rows: Sequence[EvalRow]
) -> int:
    """Tokens an answer may have: what the longest expected answer needs, its stop token, and some to spare.

    Args:
        lengths: Texts -> their lengths in tokens.
        kind: Of the rows.
        labels: What an answer may be; empty for a chat.
        rows: What is expected.
    """
    longest = max(lengths([*labels, *{row.truth for row in rows}]))
    if kind == "classification":
        return longest + SPARE_TOKENS[kind]
    return min(LONGEST_ANSWER, 2 * longest + SPARE_TOKENS[kind])
