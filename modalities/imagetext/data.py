"""Questions about pictures as a dataset, kept as JSON lines.

    {"id": "<16 hex>", "row": 4, "picture": "<digest>", "pixels": "<digest>", "form": "whether", "label": "cat",
     "group": null, "question": "Is this a cat?", "answer": "yes"}

Nothing here imports torch.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_json
from modalities.imagetext.questions import QuestionRow, ask
from modalities.vision.images import decode_image
from store import artifacts

__all__ = ["QuestionRow", "ask", "locked_digest", "open_image", "parse_rows", "rows_of", "write_rows"]


def write_rows(rows: Sequence[QuestionRow]) -> bytes:
    """A split as JSON lines, in the order given."""
    lines = (
        {
            "id": row.id,
            "row": row.number,
            "picture": row.image,
            "pixels": row.pixels,
            "form": row.form,
            "label": row.label,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
        }
        for row in rows
    )
    return b"".join(canonical_json(line) + b"\n" for line in lines)


def parse_rows(data: bytes) -> list[QuestionRow]:
    """The rows that `write_rows` wrote. Raises as `rows_of` does."""
    return rows_of([json.loads(line) for line in data.split(b"\n") if line])


def rows_of(values: Sequence[Mapping[str, Any]]) -> list[QuestionRow]:
    """Rows from their JSON.

    Raises:
        DataError: One is no question about a picture; says which.
    """
    found = []
    for value in values:
        try:
            told = (value["form"], value["question"], value["answer"], value["label"], value["group"])
            found.append(QuestionRow(value["row"], value["picture"], value["pixels"], *told))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "The row is no question about a picture.",
                where=f"row {value.get('row', '?')}",
                remedy="Curate the pictures again: start a new task.",
            ) from error
    return found


def open_image(row: QuestionRow) -> Image.Image:
    """The row's image, decoded to RGB.

    Raises:
        NotFound: The artifact is gone.
        IntegrityError: Its bytes have changed.
    """
    return decode_image(artifacts.get_bytes(row.image), row.image)


def locked_digest(rows: Sequence[QuestionRow]) -> str:
    """The content hash of locked rows; neither their order nor their numbers matter."""
    return digest_json(sorted(digest_json([row.pixels, row.question, row.answer]) for row in rows))
