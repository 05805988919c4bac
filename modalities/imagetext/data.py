"""Questions about pictures as a dataset: made of a curated image dataset, kept as JSON lines.

    {"id": "<16 hex>", "row": 4, "image": "<digest>", "pixels": "<digest>", "form": "whether", "label": "cat",
     "group": null, "messages": [{"role": "user", "content": "Is this a cat?", "picture": true}, ...]}

Nothing here imports torch.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from moatelier.contracts import DatasetCard, SplitInfo
from moatelier.errors import DataError, InvalidRequest
from moatelier.ids import canonical_json
from modalities.imagetext.config import NAME
from modalities.imagetext.questions import QuestionRow, ask
from modalities.vision import data as images
from modalities.vision.images import decode_image
from store import artifacts

__all__ = ["QuestionRow", "ask", "derive", "open_image", "parse_rows", "rows_of", "write_rows"]


def derive(card: DatasetCard, seed: int = 0) -> DatasetCard:
    """The dataset of questions about a curated image dataset's pictures, with their rows kept as artifacts.

    Splits are the pictures' own. The locked pictures stay in the vault: their digest stays too, so that a look at
    questions about them counts as a look at them.

    Raises:
        InvalidRequest: The card is not of labelled images.
        DataError: There are fewer than two classes.
        NotFound, IntegrityError: An artifact is gone or was changed.
    """
    if card.modality != "vision" or not card.labels:
        raise InvalidRequest(
            f"{card.name!r} holds no labelled images.", where="dataset", remedy="Curate an image classification set."
        )
    splits = {}
    for name, info in card.splits.items():
        if info.artifact is None:
            splits[name] = info
            continue
        asked = ask(images.parse_rows(artifacts.get_bytes(info.artifact)), card.labels, seed)
        answers = Counter(row.answer for row in asked)
        splits[name] = SplitInfo(
            rows=len(asked), artifact=artifacts.put_bytes(write_rows(asked)), labels=dict(sorted(answers.items()))
        )
    return card.model_copy(update={"modality": NAME, "kind": "chat", "splits": splits})


def write_rows(rows: Sequence[QuestionRow]) -> bytes:
    """A split as JSON lines, in the order given."""
    lines = (
        {
            "id": row.id,
            "row": row.number,
            "image": row.image,
            "pixels": row.pixels,
            "form": row.form,
            "label": row.label,
            "group": row.group,
            "messages": row.messages,
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
            _, question, answer = value["messages"]
            told = (value["form"], question["content"], answer["content"], value["label"], value["group"])
            found.append(QuestionRow(value["row"], value["image"], value["pixels"], *told))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "The row is no question about a picture.",
                where=f"row {value.get('row', '?')}",
                remedy="Make the rows of a labelled image set with `modalities.imagetext.data.derive`.",
            ) from error
    return found


def open_image(row: QuestionRow) -> Image.Image:
    """The row's image, decoded to RGB.

    Raises:
        NotFound: The artifact is gone.
        IntegrityError: Its bytes have changed.
    """
    return decode_image(artifacts.get_bytes(row.image), row.image)
