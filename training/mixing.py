"""Several LoRA adapters of one base as one, without training, by PEFT's `add_weighted_adapter`.

    cat                     the low-rank parts side by side: exactly the weighted sum of the changes, ranks add up
    svd                     the sum's best approximation of one rank
    linear                  A with A and B with B; cheap, and only near the sum where the parents are alike
    ties (2306.01708)       prunes by size, elects a sign for each weight, averages what agrees
    dare_linear, dare_ties (2311.03099)     drops at random and rescales what is left
    magnitude_prune         prunes by size and adds

The forms with `_svd` do so on the whole changes and not on A and B apart, and so take parents of different ranks.
"""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import save

from moatelier.contracts import AdapterManifest, Mixing
from moatelier.errors import InvalidRequest
from moatelier.faults import fault_point
from modalities import registry
from modalities.bundle import CONFIG, WEIGHTS, bundle_folder, open_bundle, read_manifest, seal
from serving.lora import read_config, read_tensors
from training.methods import lora
from training.run import versions

_BASES = {"text": "modalities.text.model:load_base", "audio": "modalities.audio.model:load_base"}
"""Modality -> what loads its base; the model of the others is not what their adapters alone change."""
_PRUNING = ("ties", "dare", "magnitude")
_SAME = ("base_digest", "modality", "kind", "template_digest", "stop_ids")
MIXED = "default"


def check(mixing: Mixing, parents: Sequence[AdapterManifest]) -> None:
    """Refuse what cannot be mixed, by the manifests alone.

    Raises:
        InvalidRequest: Weights or density do not fit the method, or the parents do not fit each other.
    """
    if len(mixing.weights) != len(parents):
        what = f"There are {len(parents)} adapters and {len(mixing.weights)} weights."
        raise InvalidRequest(what, where="weights", remedy="Give one weight for each adapter, in their order.")
    if not all(map(isfinite, mixing.weights)) or not all(mixing.weights):
        raise InvalidRequest("A weight is zero or no number.", where="weights", remedy="Leave that adapter out.")
    if len(set(mixing.parents)) < len(parents):
        raise InvalidRequest("An adapter is named twice.", where="adapters", remedy="Raise its weight instead.")
    prunes = mixing.method.startswith(_PRUNING)
    if prunes != (mixing.density is not None):
        what = f"{mixing.method} {'needs' if prunes else 'has no'} density."
        raise InvalidRequest(what, where="density", remedy="Give 0.5, say." if prunes else "Leave it out.")
    if mixing.rank is not None and not mixing.method.endswith("svd"):
        what = f"The rank of what {mixing.method} makes is not free."
        raise InvalidRequest(what, where="rank", remedy="Leave it out, or use svd or a method with `_svd`.")
    for field in _SAME:
        for parent in parents[1:]:
            if getattr(parent, field) != getattr(parents[0], field):
                raise InvalidRequest(
                    f"The adapters differ in {field.replace('_', ' ')}: {_told(parents[0], field)} and "
                    f"{_told(parent, field)}.",
                    where=parent.suffix,
                    remedy="Mix adapters of one base, kind and template.",
                )
    if parents[0].modality not in _BASES:
        raise InvalidRequest(
            f"Adapters of {parents[0].modality} have heads or projectors of their own, which cannot be mixed.",
            where=parents[0].suffix,
            remedy=f"Those of {' and '.join(_BASES)} can.",
        )


def _told(manifest: AdapterManifest, field: str) -> str:
    return f"{manifest.base} {manifest.base_digest[:8]}" if field == "base_digest" else str(getattr(manifest, field))


def mix(mixing: Mixing, suffix: str) -> str:
    """Mix sealed adapters into a new sealed one. The same mixing of the same gives the same bundle.

    Args:
        mixing: Which, and how.
        suffix: Part of the new one's id.

    Returns:
        The new bundle's digest.

    Raises:
        InvalidRequest: They cannot be mixed so; says why.
        NotFound, IntegrityError: A bundle is missing or was changed.
        ModelUnavailable: The base has not been pulled.
        ResourceExhausted: The disk is full.
    """
    folders = [bundle_folder(parent) for parent in mixing.parents]
    parents = [read_manifest(folder) for folder in folders]
    check(mixing, parents)
    configs = [_config(folder) for folder in folders]
    _check_alike(mixing, configs, parents)
    base = registry.load(_BASES[parents[0].modality])(parents[0].base, "fp32")
    for folder, parent in zip(folders, parents, strict=True):
        open_bundle(folder, base_digest=base.digest, template_digest=parent.template_digest)
    model = _loaded(base.model, folders, configs)
    _add(model, mixing, configs)
    told = lora.config(model, parents[0].base)
    files = {CONFIG: told, WEIGHTS: bytes(save(lora.weights(model), metadata={"format": "pt"}))}
    fault_point("mix.sealing")
    return seal(files, **_fields(mixing, suffix, parents, model.peft_config[MIXED].r))


def _config(folder: Path) -> LoraConfig:
    # Engine and mixing know plain LoRA alone: with DoRA's lengths or weights beside it a sum would be something else.
    config = read_config(folder)
    config.base_model_name_or_path = None  # the catalogue's name, where PEFT expects the folder it lies in
    started = config.init_lora_weights
    if started is not True and started != "gaussian":
        raise InvalidRequest(
            f"The adapter began with {started!r}, which changes the base itself: its change is not a sum.",
            where=str(folder),
            remedy="Mix adapters by lora, or tune it again.",
        )
    return config


def _check_alike(mixing: Mixing, configs: Sequence[LoraConfig], parents: Sequence[AdapterManifest]) -> None:
    if len({tuple(config.alora_invocation_tokens or ()) for config in configs}) > 1:
        what = "One acts on all tokens and another on answers only."
        raise InvalidRequest(what, where="adapters", remedy="Mix adapters by one method.")
    if any(config.rank_pattern or config.alpha_pattern for config in configs):
        what = "An adapter has ranks that differ from layer to layer."
        raise InvalidRequest(what, where="adapters", remedy="Mix adapters of one rank each.")
    ranks = [config.r for config in configs]
    if len(set(ranks)) > 1 and mixing.method != "cat" and not mixing.method.endswith("svd"):
        raise InvalidRequest(
            f"{mixing.method} needs parents of one rank; these have {', '.join(map(str, ranks))}.",
            where="method",
            remedy="Use cat, svd or a method with `_svd`.",
        )


def _loaded(model: Any, folders: Sequence[Path], configs: Sequence[LoraConfig]) -> Any:
    """PEFT's model with the parents as `parent0`, `parent1`, ..."""
    adapted: Any = None
    for number, (folder, config) in enumerate(zip(folders, configs, strict=True)):
        name = f"parent{number}"
        if adapted is None:
            adapted = get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=True)
        else:
            adapted.add_adapter(name, config)
        found = set_peft_model_state_dict(adapted, read_tensors(folder), adapter_name=name)
        missing = [key for key in found.missing_keys if f".{name}." in key]
        if missing or found.unexpected_keys:
            raise InvalidRequest(
                f"The adapter does not fit the base: {[*missing, *found.unexpected_keys][0]}.", where=str(folder)
            )
    return adapted


def _add(model: Any, mixing: Mixing, configs: Sequence[LoraConfig]) -> None:
    # PEFT copies what the new one is not told from the first parent. There rsLoRA's scale would be applied once more,
    # and layers that only other parents change would be left out.
    first = model.peft_config["parent0"]
    first.use_rslora = False
    if first.layers_to_transform is not None:
        places = [config.layers_to_transform for config in configs]
        every = None in places
        first.layers_to_transform = None if every else sorted({place for one in places for place in one})
        first.layers_pattern = None if every else first.layers_pattern
    torch.manual_seed(mixing.seed)
    try:
        model.add_weighted_adapter(
            [f"parent{number}" for number in range(len(configs))],
            list(mixing.weights),
            MIXED,
            combination_type=mixing.method,
            svd_rank=mixing.rank,
            svd_full_matrices=False,
            density=mixing.density,
        )
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"PEFT cannot mix these: {error}", where="method", remedy="Use `cat`.") from error
    model.set_adapter(MIXED)


def _fields(mixing: Mixing, suffix: str, parents: Sequence[AdapterManifest], rank: int) -> dict[str, Any]:
    first = parents[0]
    systems = {parent.system for parent in parents}
    spec = first.spec.model_copy(update={"rank": rank, "alpha": float(rank), "suffix": suffix, "seed": mixing.seed})
    return {
        **{field: getattr(first, field) for field in (*_SAME, "base", "dataset")},
        "suffix": suffix,
        "system": systems.pop() if len(systems) == 1 else "",
        "labels": tuple(dict.fromkeys(label for parent in parents for label in parent.labels)),
        "first_layer": min(parent.first_layer for parent in parents),
        "licence": " and ".join(dict.fromkeys(parent.licence for parent in parents)),
        "spec": spec,
        "versions": versions(),
        "mixing": mixing,
    }
