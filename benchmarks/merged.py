"""Several adapters as one: the mean of what each adds to the weights, exactly, as one LoRA of the sum of their ranks.

    mean of s B_i A_i  =  (s / n) [B_1 ... B_n] [A_1; ...; A_n]

PEFT scales by alpha / rank, so the merged adapter has rank n r and keeps alpha: s / n is alpha / (n r).
"""

import json
from collections.abc import Sequence

import torch
from safetensors.torch import load_file, save

from moatelier.ids import canonical_json
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, read_manifest, seal

OWN = ("files", "spec", "suffix", "labels", "dataset")
"""What the merged adapter's manifest does not take over from the first one's."""


def mean(digests: Sequence[str], name: str) -> str:
    """Seal the mean of adapters of one shape; returns the bundle's digest.

    Args:
        digests: Sealed LoRA bundles of the same base, layers, rank and alpha.
        name: The suffix of the merged one.
    """
    folders = [bundle_folder(digest) for digest in digests]
    weights = [load_file(folder / WEIGHTS) for folder in folders]
    configs = [json.loads((folder / CONFIG).read_bytes()) for folder in folders]
    manifests = [read_manifest(folder) for folder in folders]
    assert all(config == configs[0] for config in configs), "adapters of one shape"
    assert not configs[0]["rank_pattern"] and not configs[0]["alpha_pattern"] and not configs[0]["use_rslora"]
    config = configs[0] | {"r": len(digests) * configs[0]["r"]}
    made = {key: _beside(key, [each[key] for each in weights]) for key in sorted(weights[0])}
    files = {WEIGHTS: save(made, metadata={"format": "pt"}), CONFIG: canonical_json(config)}
    first = manifests[0]
    fields = {key: getattr(first, key) for key in type(first).model_fields if key not in OWN}
    labels = sorted({label for manifest in manifests for label in manifest.labels})
    spec = first.spec.model_copy(update={"rank": config["r"], "suffix": name})
    return seal(files, **fields, spec=spec, suffix=name, labels=tuple(labels), dataset="0" * 64)


def _beside(key: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """All A `[rank, in]` below each other, all B `[out, rank]` beside each other."""
    return torch.cat(list(parts), dim=0 if "lora_A" in key else 1)
