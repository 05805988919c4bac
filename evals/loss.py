"""Cross-entropy on rows, with the very mask that training used: the assistant's tokens and their stop token."""

import math
from collections.abc import Sequence
from dataclasses import replace

from evals.answered import Answered
from evals.rows import EvalRow
from evals.scorers import plain
from modalities.text.documents import pieces
from serving.engine import TextEngine
from training.text import encode

LOSS_ROWS = 64
"""A whole row goes through all layers for a handful of trained tokens, so a fixed part of a large split must do."""


def losses(engine: TextEngine, rows: Sequence[EvalRow], *, adapter: str | None) -> list[tuple[float, int] | None]:
    """Cross-entropy of each row's trained tokens and their number: (nats, tokens).

    None for rows longer than the context, which the model cannot be given either, and for rows without trained tokens.

    Args:
        engine: With the adapter loaded.
        rows: As `evals.rows.read_rows` gives them.
        adapter: The name it is loaded under; None is the base.

    Raises:
        DataError: A row's answer does not end in a stop token.
        NotFound: No adapter of this name is loaded.
    """
    lines = [{"row": number + 1, "messages": row.messages} for number, row in enumerate(rows)]
    encoded = encode(engine.base, "dev", lines, engine.invocation(adapter))
    fitting = [place for place, row in enumerate(encoded) if len(row.ids) <= engine.context and any(row.trained)]
    found: list[tuple[float, int] | None] = [None] * len(rows)
    for place, told in zip(fitting, engine.score([encoded[at].ids for at in fitting], adapter=adapter), strict=True):
        counted = [logprob for logprob, trained in zip(told, encoded[place].trained[1:], strict=True) if trained]
        found[place] = -sum(counted), len(counted)
    return found


def mean_loss(engine: TextEngine, rows: Sequence[EvalRow], *, adapter: str | None) -> float | None:
    """Mean cross-entropy per trained token, in nats, over the first `LOSS_ROWS` rows; None without trained tokens.

    Arguments and errors as of `losses`.
    """
    return mean(losses(engine, rows[:LOSS_ROWS], adapter=adapter))


def mean(found: Sequence[tuple[float, int] | None]) -> float | None:
    """The mean per token of what `losses` gives; None where there are no tokens."""
    counted = [one for one in found if one is not None]
    tokens = sum(count for _, count in counted)
    return sum(total for total, _ in counted) / tokens if tokens else None


def measure(
    engine: TextEngine, rows: Sequence[EvalRow], answered: Sequence[Answered], *, adapter: str | None
) -> tuple[list[tuple[float, int] | None], list[float | None]]:
    """Of the first rows the loss of the expected answer, as `losses` tells it, and the probability of the given one.

    A right answer's probability follows from its loss, so only wrong ones take a second pass. It is None where an
    answer is empty or did not end.
    """
    some = rows[:LOSS_ROWS]
    expected = losses(engine, some, adapter=adapter)
    wrong = [
        place
        for place, (row, given) in enumerate(zip(some, answered, strict=False))
        if given.stopped and given.answer.strip() and plain(given.answer) != plain(row.truth)
    ]
    given = losses(engine, [replace(some[at], truth=answered[at].answer) for at in wrong], adapter=adapter)
    sure: list[float | None] = [None] * len(some)
    for place, found in zip(wrong, given, strict=True):
        sure[place] = None if found is None else math.exp(-found[0])
    for place, (row, known) in enumerate(zip(some, expected, strict=True)):
        if known is not None and plain(answered[place].answer) == plain(row.truth):
            sure[place] = math.exp(-known[0])
    return expected, sure


def perplexity(engine: TextEngine, documents: Sequence[str], *, adapter: str | None) -> float:
    """The exponential of the mean cross-entropy per token of plain text: among how many tokens it wavers.

    Documents are cut as they are for training, but at the engine's whole context.

    Args:
        engine: With the adapter loaded.
        documents: At least one.
        adapter: The name it is loaded under; None is the base.

    Raises:
        DataError: A document is empty.
        NotFound: No adapter of this name is loaded.
    """
    cut = [ids for text in documents for ids in pieces(engine.base.tokenizer, text, engine.context)]
    told = engine.score(cut, adapter=adapter)
    return math.exp(-sum(map(sum, told)) / sum(map(len, told)))
