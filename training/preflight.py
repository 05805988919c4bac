"""What must hold before the first step: the commonest silent failures of tuning, refused by row.

Guards against training on nothing (unsloth#1128, trl#6025), models that never stop (unsloth#416, trl#1623), silent
truncation (transformers#30998), and leaves the coloured tokens of a few rows for a person to look at.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moatelier.contracts import Contract
from moatelier.errors import DataError, InvalidRequest
from moatelier.job import write_atomically
from training.batches import Example

_SHOWN = 5


class Preflight(Contract):
    """What was found. Lengths in tokens."""

    rows: int
    tokens: int
    trained: int
    longest: int
    without_training: int
    """Rows without a single trained token; they cost time and teach nothing."""


def check(
    examples: Sequence[Example], stop_ids: Sequence[int] | None, pad_id: int | None, max_tokens: int
) -> Preflight:
    """Check the rows of a split as they will be trained. Without stop tokens rows may end anywhere, as plain text does.

    Raises:
        DataError: No rows, a row longer than `max_tokens`, an answer that does not end in a trained stop token, or
            no trained token at all.
        InvalidRequest: The base pads with a token that also stops.
    """
    if not examples:
        raise DataError("There are no rows to train on.", where="train", remedy="Add rows.")
    if stop_ids is not None and pad_id is not None and pad_id in stop_ids:
        raise InvalidRequest(
            f"The base's padding token {pad_id} is also a stop token.",
            where="tokenizer",
            remedy="Give the base a padding token of its own.",
        )
    for example in examples:
        _check_row(example, stop_ids, max_tokens)
    lengths = [len(example.ids) for example in examples]
    trained = [sum(example.trained) for example in examples]
    if not any(trained):
        raise DataError(
            "Not a single token would be trained.", where="train", remedy="Each row needs an answer by the assistant."
        )
    return Preflight(
        rows=len(examples),
        tokens=sum(lengths),
        trained=sum(trained),
        longest=max(lengths),
        without_training=trained.count(0),
    )


def _check_row(example: Example, stop_ids: Sequence[int] | None, max_tokens: int) -> None:
    if len(example.ids) > max_tokens:
        lost = sum(example.trained[max_tokens:])
        raise DataError(
            f"The row has {len(example.ids)} tokens of at most {max_tokens}; {lost} trained tokens would be lost.",
            where=example.name,
            remedy="Shorten the row, or let the curator drop or truncate rows that are too long.",
        )
    for position in example.targets if stop_ids is not None else ():
        ends = position + 1 == len(example.ids) or not example.trained[position + 1]
        if ends and stop_ids is not None and example.ids[position] not in stop_ids:
            raise DataError(
                "An answer does not end in a trained stop token: the model would never learn to stop.",
                where=f"{example.name}, token {position}",
                remedy="Use a base whose chat template ends the assistant's turn with a stop token.",
            )


def show(examples: Sequence[Example], tokenizer: Any, path: Path) -> None:
    """Write an HTML page with the tokens of a few rows; trained ones are marked."""
    rows = "".join(_row(example, tokenizer) for example in examples[:_SHOWN])
    page = (
        "<!doctype html><meta charset=utf-8><title>What is trained</title>"
        "<style>body{font:15px/1.9 monospace;max-width:60em;margin:2em auto}span{background:#eee;margin:1px;"
        "padding:1px 2px;white-space:pre-wrap}mark{background:#8fd18f;margin:1px;padding:1px 2px;white-space:pre-wrap}"
        f"</style><h1>What is trained</h1><p>Green tokens count in the loss.</p>{rows}"
    )
    write_atomically(path, page.encode())


def _row(example: Example, tokenizer: Any) -> str:
    tokens = []
    for token, learn in zip(example.ids, example.trained, strict=True):
        text = html.escape(tokenizer.decode([token]).replace("\n", "\\n"))
        tokens.append(f"<mark>{text}</mark>" if learn else f"<span>{text}</span>")
    return f"<h2>{html.escape(example.name)}</h2><p>{''.join(tokens)}</p>"
