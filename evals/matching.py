"""Pictures and captions to what is found of them: each row among the same number of candidates, both ways.

Recall falls as there is more to choose from, so that a figure means something only beside their number. Here it is
`CANDIDATES`, however many rows there are: they are taken in an order that their ids fix, in groups of so many. The last
group is filled up with rows of the others, and a split that is smaller than a group with training rows; what fills up
is only chosen from. Pictures that look the same and captions that read the same belong together, whoever's they are.
"""

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evals.answered import Answered, Found
from evals.rows import EvalRow
from moatelier.contracts import CANDIDATES
from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_json
from moatelier.job import write_atomically
from modalities.vision.duplicates import pixel_digest
from modalities.vision.images import decode_image
from serving import parts

CHUNK_ROWS = 64
RANKS = (1, 5)
"""The k of every recall@k that is measured."""
_ORDER = "candidates"
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Matcher(Protocol):
    """What an engine must be able to do."""

    def compares(self, adapter: str | None) -> bool:
        """Whether an adapter, or the base, has pictures and words in one space."""

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> Any:
        """Vectors of unit length `[images, width]`."""

    def embed_texts(self, texts: Sequence[str], adapter: str | None = None) -> Any:
        """The same of texts."""


class Progress(Protocol):
    """Called with (rows done, expected seconds left) after each chunk; may raise to stop."""

    def __call__(self, done: int, seconds_left: float, /) -> None:
        """Told."""


def match_all(
    engine: Matcher,
    rows: Sequence[EvalRow],
    others: Sequence[EvalRow],
    *,
    adapter: str | None,
    folder: Path,
    progress: Progress,
) -> list[Answered]:
    """Look for every row's caption by its picture, and for its picture by its caption.

    Args:
        engine: With the adapter loaded.
        rows: Of one split, each of a picture and its caption.
        others: Rows to fill up a small split with; as many are used as are missing.
        adapter: The name it is loaded under; None is the base. Where pictures and words never met, nothing is found.
        folder: Where chunks of vectors are kept; a rerun reads them instead of looking again.
        progress: Told after each chunk.

    Returns:
        For each row the caption that its picture is most like, and where its own stands.

    Raises:
        DataError: A row has no caption, or its picture is damaged.
    """
    for row in rows:
        if not row.truth:
            raise DataError("The picture has no caption to find it by.", where=row.id, remedy="Curate the data again.")
    if not engine.compares(adapter):
        progress(len(rows), 0.0)
        return [Answered(row.truth, "", True, row.group, Found((CANDIDATES, CANDIDATES))) for row in rows]
    fill = sorted(others, key=_place)[: max(0, CANDIDATES - len(rows))]

    def told(done: int, seconds_left: float) -> None:
        progress(min(done, len(rows)), seconds_left)

    seen = _look(engine, [*rows, *fill], adapter, folder, told)
    return _find(seen, [*rows, *fill], len(rows), groups([_place(row) for row in rows], len(fill)))


def groups(keys: Sequence[str], fill: int) -> list[tuple[list[int], list[int]]]:
    """Who is judged together, and who only stands among the candidates.

    Args:
        keys: Of the rows; their order fixes the groups.
        fill: How many rows there are beyond them, which are numbered after them.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    made = [order[at : at + CANDIDATES] for at in range(0, len(order), CANDIDATES)]
    spare = [*(order if len(made) > 1 else ()), *range(len(keys), len(keys) + fill)]
    return [(group, spare[: CANDIDATES - len(group)]) for group in made]


def _place(row: EvalRow) -> str:
    return digest_json([_ORDER, row.id])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


# ---------------------------------------------------------------- vectors


class _Seen:
    """Vectors of pictures and captions `[rows, width]`, and what each picture shows."""

    def __init__(self, chunks: Sequence[dict[str, Any]]) -> None:
        self.images = np.concatenate([_unpacked(chunk["images"]) for chunk in chunks])
        self.texts = np.concatenate([_unpacked(chunk["texts"]) for chunk in chunks])
        self.pixels: list[str] = [digest for chunk in chunks for digest in chunk["pixels"]]


def _look(engine: Matcher, rows: Sequence[EvalRow], adapter: str | None, folder: Path, progress: Progress) -> _Seen:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    chunks: list[dict[str, Any]] = []
    started, looked = time.monotonic(), 0
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        path = folder / f"{digest_json([adapter, [row.messages for row in chunk]])[:32]}.json"
        if not path.exists():
            images = [_picture(row) for row in chunk]
            told = {
                "images": _packed(engine.embed(images, [adapter] * len(images))),
                "texts": _packed(engine.embed_texts([row.truth for row in chunk], adapter)),
                "pixels": [pixel_digest(image) for image in images],
            }
            write_atomically(path, canonical_json(told))
            looked += len(chunk)
        chunks.append(json.loads(path.read_bytes()))
        done = start + len(chunk)
        progress(done, (time.monotonic() - started) / max(looked, 1) * (len(rows) - done))
    return _Seen(chunks)


def _picture(row: EvalRow) -> Image.Image:
    part = parts.last(row.prompt, "image", stored=True)
    assert part is not None, "pictures are sought for rows with pictures"
    return decode_image(part.data, row.id)


def _packed(vectors: Any) -> dict[str, Any]:
    values = np.asarray(vectors, dtype="<f4")
    return {"width": int(values.shape[1]), "values": base64.b64encode(values.tobytes()).decode()}


def _unpacked(told: dict[str, Any]) -> Floats:
    values = np.frombuffer(base64.b64decode(told["values"]), dtype="<f4")
    return values.reshape(-1, told["width"]).astype(np.float64)


# ---------------------------------------------------------------- who is found


def _find(
    seen: _Seen, rows: Sequence[EvalRow], sought: int, made: Sequence[tuple[list[int], list[int]]]
) -> list[Answered]:
    """What is found of the first rows, as many as are sought."""
    best, ranks = [0] * sought, np.zeros((sought, 2), dtype=int)
    sways = np.zeros((len(RANKS), len(rows), 2))
    texts, pictures = np.array([_plain(row.truth) for row in rows]), np.array(seen.pixels)
    for judged, others in made:
        chosen = [*judged, *others]
        likeness = seen.images[chosen] @ seen.texts[chosen].T
        same = (pictures[chosen][:, None] == pictures[chosen]) | (texts[chosen][:, None] == texts[chosen])
        count = len(judged)
        ranks[judged] = places(likeness, same)[:count]
        for place, row in enumerate(judged):
            best[row] = chosen[int(likeness[place].argmax())]
        for number, k in enumerate(RANKS):
            sways[number, chosen] += sway(likeness, same, count, k)
    return [
        Answered(
            row.truth,
            rows[best[n]].truth,
            True,
            row.group,
            Found(
                (int(ranks[n, 0]), int(ranks[n, 1])),
                tuple((float(each[n, 0]), float(each[n, 1])) for each in sways),
                seen.pixels[n],
            ),
        )
        for n, row in enumerate(rows[:sought])
    ]


def places(likeness: Floats, same: Flags) -> NDArray[np.int64]:
    """How many wrong captions stand before a picture's own, and wrong pictures before a caption's `[rows, 2]`.

    What is as like as its own stands before it, so that a model which tells nothing apart finds nothing.

    Args:
        likeness: Of pictures to captions `[rows, rows]`; row n is a picture and its caption.
        same: Which of them belong together.
    """
    return np.stack([_before(likeness, same), _before(likeness.T, same.T)], axis=1)


def _before(likeness: Floats, same: Flags) -> NDArray[np.int64]:
    own = np.where(same, likeness, -np.inf).max(axis=1, keepdims=True)
    count: NDArray[np.int64] = ((likeness >= own) & ~same).sum(axis=1)
    return count


def sway(likeness: Floats, same: Flags, judged: int, k: int) -> Floats:
    """How many more, or fewer, of the others would be found without each row `[rows, 2]`.

    Args:
        likeness: As for `places`.
        same: As for `places`.
        judged: So many of the rows, the first ones, are looked for.
        k: Found is what is among the first k.
    """
    hits = places(likeness, same)[:judged] < k
    found = np.zeros((len(likeness), 2))
    for row in range(len(likeness)):
        keep = np.arange(len(likeness)) != row
        without = places(likeness[np.ix_(keep, keep)], same[np.ix_(keep, keep)])[: judged - (row < judged)] < k
        found[row] = without.sum(axis=0) - hits[keep[:judged]].sum(axis=0)
    return found
