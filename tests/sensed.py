"""Sealed adapters for pictures and recordings, with invented weights."""

from pathlib import Path

from moatelier.contracts import Kind, TrainSpec
from modalities import bundle
from store import adapters


def sealed(modality: str, base: str, kind: Kind, suffix: str) -> Path:
    spec = TrainSpec(method="x", base=base, dataset="d" * 64, suffix=suffix)
    digest = bundle.seal(
        {"adapter_model.safetensors": suffix.encode(), "adapter_config.json": b"{}"},
        base=base,
        base_digest="b" * 64,
        modality=modality,
        kind=kind,
        suffix=suffix,
        system="",
        template_digest="t" * 64,
        stop_ids=(),
        labels=("red", "blue") if kind == "classification" else (),
        first_layer=0,
        dataset="d" * 64,
        licence="CC0-1.0",
        spec=spec,
        versions={},
    )
    return bundle.bundle_folder(digest)


def registered(modality: str, base: str, kind: Kind, suffix: str) -> adapters.AdapterRecord:
    """The same, registered."""
    manifest = bundle.read_manifest(sealed(modality, base, kind, suffix))
    return adapters.register("default", manifest, "task-1")
