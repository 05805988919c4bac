"""Texts continued as they stand, without the template of a conversation: what `/v1/completions` asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.engine import TextEngine
from serving.row import Prompt, Row
from serving.turns import raw_ids


def submit(
    engine: TextEngine, turns: Sequence[Mapping[str, Any]], *, adapters: Sequence[str | None], **options: Any
) -> list[Row]:
    """Let a text wait for its turn.

    Args:
        engine: With the adapters loaded.
        turns: One, whose content is the text.
        adapters: Names of loaded adapters, None is the base.
        **options: As for `TextEngine.enter`.

    Raises:
        NotFound: No adapter of this name is loaded.
        InvalidRequest: The text is empty or fills the context.
    """
    prompt = Prompt(raw_ids(engine.base, str(turns[0]["content"])))
    return engine.enter([prompt] * len(adapters), adapters=adapters, **options)
