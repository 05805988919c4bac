"""Cuts a row to a number of tokens: the ends of its longest questions go, its answer stays whole."""

from collections.abc import Callable
from dataclasses import replace

from moatelier.errors import DataError
from modalities.text.rows import Row


def shorten(row: Row, count_tokens: Callable[[Row], int], limit: int) -> Row:
    """The row, with the ends of its longest messages cut until it fits; the assistant's turns are never cut.

    Args:
        row: A usable row.
        count_tokens: Prompt plus answer in tokens.
        limit: How many fit.

    Raises:
        DataError: What must stay is too long by itself.
    """
    longest_first = sorted(range(len(row.messages)), key=lambda n: -len(row.messages[n]["content"]))
    for index in longest_first:
        if count_tokens(row) <= limit:
            break
        if row.messages[index]["role"] == "user":
            row = _cut(row, index, count_tokens, limit)
    if (length := count_tokens(row)) > limit:
        raise DataError(
            f"Even with its questions cut away the row has {length} tokens, where {limit} fit.",
            where=row.place,
            remedy='Shorten its answer, or say "drop rows that are too long".',
        )
    return row


def _cut(row: Row, index: int, count_tokens: Callable[[Row], int], limit: int) -> Row:
    """As much of one message as fits, at least its first character."""
    text = row.messages[index]["content"]

    def first(characters: int) -> Row:
        message = {**row.messages[index], "content": text[:characters].rstrip() or text[:1]}
        return replace(row, messages=(*row.messages[:index], message, *row.messages[index + 1 :]))

    fits, too_many = 1, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count_tokens(first(middle)) <= limit:
            fits = middle
        else:
            too_many = middle
    return first(fits)
