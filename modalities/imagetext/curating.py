"""Labelled pictures that become questions: read, found and judged as pictures are, then asked about.

A `modalities.curating.Curating`. The plan's base is the language model; what sees is the service's vision base.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moatelier.contracts import CurationDecision, CurationReport, ImageFindings, SplitName
from moatelier.settings import settings
from modalities.curating import Material, Told
from modalities.imagetext.questions import FORMS, QuestionRow, ask
from modalities.vision import curating as pictures
from modalities.vision.curating import check, doubt, find, questions, read

__all__ = [
    "card_fields",
    "check",
    "doubt",
    "doubts",
    "find",
    "needs",
    "preflight",
    "probing",
    "questions",
    "read",
    "report",
    "split",
]


def needs(material: Material) -> tuple[str, ...]:
    """The model that sees."""
    return (settings().vision_base,)


def probing(material: Material) -> Told:
    """The model that sees, and the size that pictures shall be brought to."""
    return pictures.probing(_seen(material)) | {"vision": settings().vision_base}


def preflight(material: Material) -> float:
    """Questions a picture."""
    return float(len(FORMS))


def doubts(material: Material, findings: ImageFindings, decision: CurationDecision) -> Told | None:
    """Whether the model that sees, sees other labels than the pictures have."""
    return pictures.doubts(_seen(material), findings, decision)


def split(
    material: Material, findings: ImageFindings, decision: CurationDecision
) -> dict[SplitName, list[QuestionRow]]:
    """The pictures' own splits; those held out have one question a picture."""
    labels = sorted(findings.labels)
    return {
        name: ask(rows, labels, material.plan.seed, held_out=name != "train")
        for name, rows in pictures.split(material, findings, decision).items()
    }


def report(
    material: Material, findings: ImageFindings, decision: CurationDecision, train: Sequence[QuestionRow]
) -> CurationReport:
    """Of the pictures, not of the questions about them."""
    return pictures.report(material, findings, decision, ())


def card_fields(material: Material, findings: ImageFindings) -> dict[str, Any]:
    """The model that sees, and the size that pictures shall be brought to."""
    return pictures.card_fields(_seen(material), findings) | {"vision": settings().vision_base}


def _seen(material: Material) -> Material:
    """The same for the model that sees."""
    base = material.plan.base.model_copy(update={"value": settings().vision_base})
    return replace(material, plan=material.plan.model_copy(update={"base": base}))
