"""Cross-entropy on rows, with the very mask that training used: the assistant's tokens and their stop token."""

import math
from collections.abc import Sequence

from evals.rows import EvalRow
from modalities.text.documents import pieces
from serving.engine import TextEngine
from training.text import encode

LOSS_ROWS = 64
"""A whole row goes through all layers for a handful of trained tokens, so a fixed part of a large split must do."""


def mean_loss(engine: TextEngine, rows: Sequence[EvalRow], *, adapter: str | None) -> float | None:
    """Mean cross-entropy per trained token, in nats, over at most `LOSS_ROWS` rows; None without trained tokens.

    Rows longer than the context are left out: the model cannot be given them either.

    Args:
        engine: With the adapter loaded.
        rows: As `evals.rows.read_rows` gives them; the first ones in their order count.
        adapter: The name it is loaded under; None is the base.

    Raises:
        DataError: A row's answer does not end in a stop token.
        NotFound: No adapter of this name is loaded.
    """
    base = engine.base
    lines = [{"row": number + 1, "messages": row.messages} for number, row in enumerate(rows[:LOSS_ROWS])]
    encoded = encode(base, "dev", lines, engine.invocation(adapter))
    fitting = [row for row in encoded if len(row.ids) <= engine.context and any(row.trained)]
    if not fitting:
        return None
    total = 0.0
    for row, told in zip(fitting, engine.score([row.ids for row in fitting], adapter=adapter), strict=True):
        total -= sum(logprob for logprob, trained in zip(told, row.trained[1:], strict=True) if trained)
    return total / sum(sum(row.trained[1:]) for row in fitting)


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
