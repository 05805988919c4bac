"""Plain text for continued pre-training: documents as token ids, without a chat template.

    {"id": "<16 hex>", "row": 12, "text": "...", "label": null, "group": null}

is a document's row. It becomes `boundary, its tokens, boundary`; what is longer than fits is cut into pieces, each of
which begins with the last token of the one before, so that every token is predicted exactly once.
"""

from collections.abc import Sequence
from typing import Any

from moatelier.errors import DataError
from modalities.text.template import text_ids

CONTENT = "text"
"""The field of a document's row that holds it."""
_END_OF_TEXT = "<|endoftext|>"


def boundary(tokenizer: Any) -> int:
    """The token between documents: the usual one of pre-training where the tokenizer has it, else the end token."""
    known = tokenizer.get_vocab().get(_END_OF_TEXT)
    return int(tokenizer.eos_token_id if known is None else known)


def pieces(tokenizer: Any, text: str, most: int) -> list[list[int]]:
    """A document's token ids, cut to at most `most`; all but the first of each piece are to be predicted.

    Raises:
        DataError: There is nothing in it.
    """
    if not text.strip():
        raise DataError("The document is empty.", where=CONTENT, remedy="Delete the row.")
    around = [boundary(tokenizer)]
    ids = around + text_ids(tokenizer, text) + around
    return [ids[start : start + most] for start in range(0, len(ids) - 1, most - 1)]


def blocks(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Put pieces together to blocks of at most `most` tokens: those of like length, which wastes least in attention."""
    made: list[list[int]] = []
    held = most
    for piece in sorted(range(len(sizes)), key=lambda piece: (sizes[piece], piece)):
        if held + sizes[piece] > most:
            made.append([])
            held = 0
        made[-1].append(piece)
        held += sizes[piece]
    return made
