"""Cross-entropy on rows, with the very mask that training used: the assistant's tokens and their stop token."""

from collections.abc import Sequence

from evals.rows import EvalRow
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
