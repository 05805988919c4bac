"""What is looked for and kept: chunks that are kept, candidates from elsewhere, towers that never met."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evals import answers, matching
from evals.matching import match_all
from evals.rows import EvalRow
from moatelier.contracts import DatasetCard
from moatelier.errors import DataError
from store import artifacts
from tests.evals import samples
from tests.modalities.vision.pictures import encoded


@dataclass
class Colours:
    """Sees the colour of a picture, and reads it where words say it as numbers; the base never met words."""

    asked: list[int] = field(default_factory=list)

    def compares(self, adapter: str | None) -> bool:
        return adapter is not None

    def embed(self, images: Sequence[Image.Image], adapters: Sequence[str | None]) -> Any:
        self.asked.append(len(images))
        return self._unit([image.resize((1, 1)).getpixel((0, 0)) for image in images])

    def embed_texts(self, texts: Sequence[str], adapter: str | None = None) -> Any:
        return self._unit([[float(part) for part in text.split()] for text in texts])

    def _unit(self, given: Any) -> Any:
        found = np.array(given, dtype=np.float32) - 128
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows(count: int, start: int = 0, said: str | None = None) -> list[EvalRow]:
    """Pictures of one colour each, with its numbers as the caption."""
    made = []
    for number in range(start, start + count):
        red, green, blue = (int(each) for each in np.random.default_rng(number).integers(0, 256, 3))
        image = artifacts.put_bytes(encoded(Image.new("RGB", (8, 8), (red, green, blue))))
        prompt = ({"role": "user", "content": [{"type": "image", "artifact": image}]},)
        made.append(EvalRow(f"row {number}", prompt, f"{red} {green} {blue}" if said is None else said))
    return made


def matched(engine: Colours, given: list[EvalRow], folder: Path, **more: Any) -> tuple[list[Any], list[int]]:
    told: list[int] = []
    fields: dict[str, Any] = {"others": [], "adapter": "met", "folder": folder}
    found = match_all(engine, given, progress=lambda done, _: told.append(done), **fields | more)
    return found, told


def test_captions_are_found_and_chunks_are_not_looked_at_again(home: Path, tmp_path: Path) -> None:
    engine, given = Colours(), rows(130)
    found, told = matched(engine, given, tmp_path / "a")
    assert [one.found.ranks for one in found] == [(0, 0)] * 130 and told == [64, 128, 130]
    assert [one.answer for one in found] == [row.truth for row in given] and engine.asked == [64, 64, 2]
    again, _ = matched(engine, given, tmp_path / "a")
    assert again == found and engine.asked == [64, 64, 2]
    kept = "".join(file.read_text() for file in (tmp_path / "a").iterdir())
    assert not any(row.truth in kept for row in given), "no rows are kept"
    matched(engine, given, tmp_path / "a", adapter="another")
    assert engine.asked == [64, 64, 2] * 2


def test_a_small_split_is_filled_up_with_rows_that_are_not_judged(home: Path, tmp_path: Path) -> None:
    engine, others = Colours(), rows(200, start=500)
    found, told = matched(engine, rows(10), tmp_path, others=others)
    assert len(found) == 10 and engine.asked == [50] and told == [10]
    same, _ = matched(engine, rows(10), tmp_path / "again", others=others[::-1])
    assert same == found, "which ones is fixed by their ids"


def test_of_towers_that_never_met_nothing_is_found_or_asked(home: Path, tmp_path: Path) -> None:
    engine = Colours()
    found, told = matched(engine, rows(60), tmp_path / "none", adapter=None)
    assert {one.found.ranks for one in found} == {(50, 50)} and told == [60] and not engine.asked


def test_a_picture_without_a_caption_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no caption") as caught:
        matched(Colours(), rows(3, said=""), tmp_path)
    assert caught.value.where == "row 0"


def test_a_part_of_a_split_is_sought_among_all_of_it(home: Path, tmp_path: Path) -> None:
    card = DatasetCard.model_validate(samples.card().model_dump() | {"kind": "retrieval", "modality": "vision"})
    whole = rows(60)
    fields: dict[str, Any] = {"adapter": "met", "progress": lambda *_: None}
    engine: Any = Colours()
    every = answers.answer(engine, card, whole, folder=tmp_path / "a", **fields)
    part = answers.answer(engine, card, whole[7:30], folder=tmp_path / "b", whole=whole, **fields)
    assert part == every[7:30] and matching.CANDIDATES == 50
