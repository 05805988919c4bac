"""Images in curation: rows from folders and tables, what is odd about them, and the size that is worth computing at.

A `modalities.curating.Curating`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moatelier.contracts import (
    CurationDecision,
    CurationReport,
    DataFindings,
    ImageColumns,
    ImageFindings,
    SplitName,
    Suspicion,
    TaskPlan,
)
from modalities import catalogue
from modalities.curating import Material, Told, Watch
from modalities.halves import Half, half_of, parts_of, read_parts
from modalities.labels import can_judge, judged
from modalities.vision import data
from modalities.vision.config import VisionConfig, read_config
from modalities.vision.images import media
from modalities.vision.rows import ImageRow

LEAST_SIZE = 128
_ENLARGED = 4
"""Images are enlarged so many times at most: the pack sees nothing more in CIFAR's 32 pixels at 224 than at 128."""
_STEP = 32
DOUBTED = 5000
"""Rows whose labels are judged at most: a minute or two of work for the pack."""


def read(path: Path, name: str, plan: TaskPlan, half: Half, watch: Watch) -> list[ImageRow]:
    """The rows of a folder, zip or table; each image is kept as an artifact."""
    columns = plan.columns.value
    chosen = columns if isinstance(columns, ImageColumns) else None

    def one(part: str | None) -> list[ImageRow]:
        return data.read_rows(path, name, chosen, part=part, watch=watch)

    return read_parts(one, half_of(parts_of(path, name, media()), half))


def check(material: Material) -> None:
    """See `data.check`."""
    data.check(material.rows, material.test_rows)


def needs(material: Material) -> tuple[str, ...]:
    """A tower of words where pictures are to be found by them and the base has none."""
    met = material.plan.kind.value != "retrieval" or _config(material).zero_shot
    return () if met else (catalogue.embedding(),)


def probing(material: Material) -> Told:
    """The size that they shall be brought to, and whether words are learnt with them."""
    size = fit_size(data.sizes([row.look for row in material.rows if row.look]), _config(material))
    told = {"kind": "retrieval"} if material.plan.kind.value == "retrieval" else {}
    return told | ({"size": size} if size else {})


def preflight(material: Material) -> float:
    """1: images are all brought to one size."""
    return 1.0


def questions(material: Material) -> Told | None:
    """None: looking is enough."""
    return None


def find(material: Material, told: Told | None) -> ImageFindings:
    """See `data.find`."""
    return data.find(material.rows, test_rows=material.test_rows)


def doubts(material: Material, findings: ImageFindings, decision: CurationDecision) -> Told | None:
    """Whether the base sees other labels than the rows have; with many rows some of them are looked at."""
    locked = {row.number for row in split(material, findings, decision)["test"]}
    rows = judged(material.rows, locked if material.test_rows is None else (), decision)
    step = max(1.0, len(rows) / DOUBTED)
    rows = [rows[int(place * step)] for place in range(int(len(rows) / step))]
    if not can_judge([str(row.label) for row in rows]):
        return None
    return {
        "modality": "vision",
        "base": material.plan.base.value,
        "size": fit_size(findings.sizes, _config(material)),
        "rows": [[row.number, row.image, row.pixels, row.label] for row in rows],
    }


def doubt(material: Material, findings: ImageFindings, decision: CurationDecision, told: Told | None) -> DataFindings:
    """The findings with labels that look wrong, judged without and about none of the rows that will be locked."""
    suspicious = [Suspicion.model_validate(found) for found in told["suspicious"]] if told else []
    return findings.model_copy(update={"suspicious": tuple(suspicious)})


def split(material: Material, findings: ImageFindings, decision: CurationDecision) -> dict[SplitName, list[ImageRow]]:
    """See `data.split`."""
    return data.split(material.rows, findings, decision, material.plan.seed, material.test_rows)


def report(
    material: Material, findings: ImageFindings, decision: CurationDecision, train: Sequence[ImageRow]
) -> CurationReport:
    """With the images' shorter sides."""
    return data.report(findings, decision, {}).model_copy(update={"measures": findings.sizes})


def card_fields(material: Material, findings: ImageFindings) -> dict[str, Any]:
    """The size that images shall be brought to."""
    return {"size": fit_size(findings.sizes, _config(material))}


def _config(material: Material) -> VisionConfig:
    return read_config(catalogue.folder(material.plan.base.value))


def fit_size(sides: Mapping[str, float], config: VisionConfig) -> int | None:
    """The size that is worth computing at; None is the base's own, which is never exceeded.

    Args:
        sides: Shorter sides in pixels: `p95` is looked at.
        config: The base's.
    """
    if not config.any_size or "p95" not in sides:
        return None
    worth = max(LEAST_SIZE, math.ceil(_ENLARGED * sides["p95"] / _STEP) * _STEP)
    return worth if worth < config.transform.size else None
