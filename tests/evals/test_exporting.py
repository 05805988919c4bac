"""Exports are read by another library, answer as we do, and are handed out only then."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from evals import exporting
from moatelier.contracts import Parity
from moatelier.errors import IntegrityError, InvalidRequest, ResourceExhausted
from moatelier.job import Job
from modalities.bundle import bundle_folder
from modalities.exported import PARITY, export_folder, read_export
from moatelier.contracts import ExportSpec
from modalities import catalogue
from tests.evals.conftest import Curated, Train
from training.export import gguf_file, merged_folder


def wish(bundle: str, format: str, numbers: str = "f32") -> ExportSpec:
    return ExportSpec(bundle=bundle, format=format, numbers=numbers)


def export(spec: ExportSpec, tmp_path: Path) -> Parity:
    return Parity.model_validate(exporting.work(spec.model_dump(mode="json"), Job(tmp_path / "job", quiet=True)))


FORMATS = [("peft", "f32"), ("safetensors", "f32"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "q8_0")]


@pytest.mark.parametrize(("format", "numbers"), FORMATS)
def test_another_reader_answers_as_we_do(train: Train, tmp_path: Path, format: str, numbers: str) -> None:
    spec = wish(train(epochs=4), format, numbers)
    parity = export(spec, tmp_path)
    assert parity.equal_answers == parity.prompts == 12
    assert 0 <= parity.largest_difference <= parity.tolerance and parity.score == parity.score_exported
    assert (parity.merge_difference is None) == (format == "peft")
    folder = export_folder(spec)
    assert read_export(folder) == parity == Parity.model_validate_json((folder / PARITY).read_bytes())
    assert [left.name for left in folder.parent.iterdir() if left.name.startswith(".draft")] == []
