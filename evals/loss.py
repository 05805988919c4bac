"""Cross-entropy on rows, with the very mask that training used: the assistant's tokens and their stop token."""

from collections.abc import Sequence

from evals.rows import EvalRow
from modalities.text.template import Encoded, encode_row
from serving.engine import TextEngine
from training.loss import frozen_head_loss

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
    encoded = [encode_row(base.tokenizer, row.messages, base.stop_ids) for row in rows[:LOSS_ROWS]]
    fitting = [row for row in encoded if len(row.ids) <= engine.context and any(row.trained)]
    if not fitting:
        return None
    with engine.using(adapter):
        total = sum(_row_loss(engine, row) for row in fitting)
    return total / sum(sum(row.trained) for row in fitting)


def _row_loss(engine: TextEngine, row: Encoded) -> float:
    model = engine.base.model
    ids = engine.base.tokenizer.pad({"input_ids": [row.ids]}, return_tensors="pt")["input_ids"].to(engine.device)
    places = ids.new_tensor([place for place, trained in enumerate(row.trained) if trained])
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    return float(frozen_head_loss(hidden[places - 1], ids[0, places], model.get_output_embeddings()))
