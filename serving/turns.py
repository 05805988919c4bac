"""A conversation as the ids that a base reads, refused where it does not fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from moatelier.errors import InvalidRequest
from modalities.text.model import TextBase
from modalities.text.template import render

LONGEST_TOKEN = 128
"""Characters; hardly any token has more."""


def prompt_ids(base: TextBase, messages: Sequence[Mapping[str, Any]], system: str = "", index: int = 0) -> list[int]:
    """The prompt of a conversation.

    Args:
        base: Gives tokenizer and context.
        messages: The system message first if there is one; one with `"picture": True` begins with a place for it.
        system: The adapter's, for a conversation that has none.
        index: Which prompt of several it is, for messages.

    Raises:
        InvalidRequest: It fills the whole context.
    """
    turns = [{key: turn[key] for key in ("role", "content", "picture") if key in turn} for turn in messages]
    if system and (not turns or turns[0]["role"] != "system"):
        turns.insert(0, {"role": "system", "content": system})
    characters, context = sum(len(turn["content"]) for turn in turns), base.config.context
    if characters > context * LONGEST_TOKEN:  # tokenising it would keep everybody waiting, to no end
        raise _too_long(base, f"{characters} characters", index)
    return require_room(base, render(base.tokenizer, turns, True), index)


def raw_ids(base: TextBase, text: str) -> list[int]:
    """A text as it stands, to be continued: no template, no system message.

    Raises:
        InvalidRequest: It is empty, or fills the whole context.
    """
    if len(text) > base.config.context * LONGEST_TOKEN:
        raise _too_long(base, f"{len(text)} characters", 0)
    ids = [int(token) for token in base.tokenizer(text)["input_ids"]]
    if not ids:
        raise InvalidRequest("There is nothing to continue.", where="messages", remedy="Send a text.")
    return require_room(base, ids)


def require_room(base: TextBase, prompt: list[int], index: int = 0) -> list[int]:
    """The prompt itself, unless it fills the whole context. Raises InvalidRequest."""
    if len(prompt) >= base.config.context:
        raise _too_long(base, f"{len(prompt)} tokens", index)
    return prompt


def _too_long(base: TextBase, told: str, index: int) -> InvalidRequest:
    return InvalidRequest(
        f"The prompt has {told}; the context of {base.entry_id} is {base.config.context}.",
        where=f"messages of prompt {index}",
        remedy="Shorten it.",
    )
