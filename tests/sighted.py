"""Small real things for image-language adapters: a tiny language model and a tiny tower side by side, questions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from moatelier.contracts import DatasetCard, SplitInfo, TrainSpec
from moatelier.settings import settings
from modalities import pull
from modalities.imagetext import data
from modalities.vision.rows import ImageRow
from store import artifacts
from tests import fakes
from tests.modalities.vision.pictures import COLOURS, drawn, encoded
from tests.modalities.vision.towers import timm_folder
from tests.training.rows import dataset
from tests.training.rows import rows as text_rows

LABELS = tuple(sorted(COLOURS))


@pytest.fixture
def both(home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny language model, pulled as `tiny`, and beside it a tower, `eyes`; returns the first."""
    file = fakes.tiny_catalogue(home / "catalogue.yaml", tiny_folder)
    listed = yaml.safe_load(file.read_text())
    eyes = {"id": "eyes", "kind": "vision", "convert": "hf_vision"}
    eyes["sources"] = [{"type": "path", "path": str(timm_folder(tmp_path / "eyes", "test_efficientnet"))}]  # type: ignore[assignment]
    listed["models"].append(listed["models"][0] | eyes)
    file.write_text(yaml.safe_dump(listed))
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(file))
    monkeypatch.setenv("MOATELIER_BASE", "tiny")
    settings.cache_clear()
    for name in ("tiny", "eyes"):
        pull.pull(name)
    return "tiny"


def pictures(count: int, start: int = 0) -> list[ImageRow]:
    """Labelled pictures as curation leaves them."""
    made = []
    for seed in range(start, start + count):
        image = artifacts.put_bytes(encoded(drawn(LABELS[seed % 3], seed, 48)))
        made.append(ImageRow(seed + 1, image, image, label=LABELS[seed % 3]))
    return made


def questions(train: int, dev: int) -> str:
    """The digest of a dataset of questions about so many pictures; of held-out ones everything is asked as well."""
    like = DatasetCard.model_validate(artifacts.get_json(dataset(text_rows(3), [])))
    splits = {
        name: SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(data.write_rows(rows)) if rows else None)
        for name, rows in (
            ("train", data.ask(pictures(train), LABELS)),
            ("dev", data.ask(pictures(dev, start=train), LABELS)),
        )
    }
    return artifacts.put_json(
        like.model_copy(update={"modality": "imagetext", "kind": "chat", "labels": LABELS, "splits": splits})
    )


def spec(digest: str, **changes: Any) -> dict[str, Any]:
    """A short training of the tiny models."""
    fields = {"method": "llava", "base": "tiny", "vision": "eyes", "dataset": digest, "suffix": "colours"}
    fields |= {"epochs": 2.0, "batch_rows": 9, "checkpoint_every": 2, "learning_rate": 1e-2, "rank": 4}
    return TrainSpec.model_validate(fields | {"precision": "fp32"} | changes).model_dump()
