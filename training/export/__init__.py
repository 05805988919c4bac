"""Adapters as files for other programs, and those programs' libraries reading them back. Imports no torch.

A format's exporter is a class `(spec, manifest)` loaded by its dotted path. It offers

    size                            about how many bytes the export will have
    tolerance, score_tolerance      what is let through by the parity gate of `evals.exporting`
    ask(prompts, truths)            what our own engine answers, in float32; truths are what images are told by
    write(folder) -> None           the files
    read(folder) -> Reading         what the other library, which reads the files anew, answers to the same prompts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moatelier.contracts import AdapterManifest, ExportSpec
from moatelier.errors import InvalidRequest, ModelUnavailable
from modalities import registry
from modalities.bundle import CONFIG

Prompts = Sequence[Sequence[Mapping[str, Any]]]
"""Conversations, as rows have them."""

_TEXT = "training.export.text:TextExport"
EXPORTERS: Mapping[tuple[str, str], str] = {
    ("text", "peft"): _TEXT,
    ("text", "safetensors"): _TEXT,
    ("text", "gguf"): _TEXT,
    ("vision", "onnx"): "training.export.vision:VisionExport",
    ("audio", "onnx"): "training.export.audio:AudioExport",
}
"""(modality, format) -> its exporter."""


@dataclass(frozen=True)
class Answer:
    """One answer. `ids` are its tokens without the stop token, or the number of a label."""

    ids: tuple[int, ...]
    text: str
    stopped: bool = True


@dataclass(frozen=True)
class Reading:
    """What another library made of an export.

    Attributes:
        reader: Library and version.
        answers: To the prompts, in their order.
        differences: The largest difference of logits or of vectors, for each prompt.
        merge_difference: The largest difference that merging alone makes; None where nothing is merged.
    """

    reader: str
    answers: Sequence[Answer]
    differences: Sequence[float]
    merge_difference: float | None = None


class Exporter(Protocol):
    """See the module."""

    size: int
    tolerance: float
    score_tolerance: float

    def ask(self, prompts: Prompts, truths: Sequence[str]) -> list[Answer]:
        """What our own engine answers; where images are told by captions, these are the captions."""

    def write(self, folder: Any) -> None:
        """Write the files.

        Raises:
            InvalidRequest: The adapter or its base has no such form.
        """

    def read(self, folder: Any) -> Reading:
        """What another library answers."""


def load(spec: ExportSpec, manifest: AdapterManifest) -> Exporter:
    """The exporter of a format for an adapter.

    Raises:
        InvalidRequest: The adapter has no such form; the remedy names those it has.
        ModelUnavailable: A package that the format needs is not installed.
    """
    path = EXPORTERS.get((manifest.modality, spec.format))
    if path is None:
        known = sorted(format for modality, format in EXPORTERS if modality == manifest.modality)
        told = f"It can be had as {', '.join(known)}" if known else "It can be had"
        raise InvalidRequest(
            f"An adapter of {manifest.modality} cannot be exported as {spec.format}.",
            where=manifest.suffix,
            remedy=f"{told} or as the sealed bundle.",
        )
    if spec.format != "gguf" and spec.numbers != "f32":
        raise InvalidRequest(f"{spec.format} is written in f32 only.", where="numbers", remedy="Leave it out.")
    if CONFIG not in manifest.files:
        raise InvalidRequest("This bundle holds no adapter in PEFT's format.", where=manifest.suffix)
    try:
        exporter: Exporter = registry.load(path)(spec, manifest)
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"To write {spec.format}, the package {error.name} is needed.",
            where="format",
            remedy="Install the extra: pip install 'moatelier[export]'",
        ) from error
    return exporter
