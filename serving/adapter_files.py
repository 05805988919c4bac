"""A text adapter's files, of any of PEFT's methods that the engine runs, read as low-rank parts and scales of outputs.

LoRA in all its kinds, AdaLoRA and VeRA are low-rank. DoRA scales the whole product of a layer too, row by row of its
weight; IA3 does nothing else, since what it does to the inputs of the down projection can be done to the outputs of the
up projection.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, VeraConfig
from torch import Tensor

from moatelier.errors import IntegrityError
from modalities.bundle import CONFIG
from serving.llama import SITES
from serving.lora import LoraWeights, Part, read_tensors, require_shapes, scaled_rank

WeightsAt = Callable[[int, str], tuple[Tensor, Tensor | None]]
"""(layer, site) -> the base's weight `[out, in]` there and its bias `[out]`."""
_KINDS: Mapping[str, type[PeftConfig]] = {
    "LORA": LoraConfig,
    "ADALORA": AdaLoraConfig,
    "VERA": VeraConfig,
    "IA3": IA3Config,
}
_UNSUPPORTED = (
    "lora_bias",
    "use_qalora",
    "trainable_token_indices",
    "target_parameters",
    "fan_in_fan_out",
    "modules_to_save",
)
_PLACES = {name: (site, place) for site, names in SITES.items() for place, name in enumerate(names)}
_UP, _DOWN = "mlp.up_proj", "mlp.down_proj"


@dataclass(frozen=True)
class _Piece:
    """An adapter at one module: `scale * (W x) + shift + B A x`, with what is absent left out."""

    a: Tensor | None = None
    b: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None


_Pieces = dict[tuple[int, str], _Piece]


@dataclass(frozen=True)
class _Files:
    """What is read, and what it is read against."""

    config: Any
    tensors: Mapping[str, Tensor]
    modules: Sequence[tuple[int, str]]
    shapes: Mapping[str, Sequence[int]]
    folder: Path

    def get(self, layer: int, module: str, name: str) -> Tensor:
        """A module's tensor in float32."""
        return self.tensors[_key(layer, module, name)].float()

    def require(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse other tensors than these."""
        require_shapes(self.tensors, wanted, self.folder)


def read_weights(
    folder: Path,
    shapes: Mapping[str, Sequence[int]],
    layers: int,
    dtype: torch.dtype,
    device: torch.device,
    weights_at: WeightsAt,
) -> LoraWeights:
    """Read a bundle's adapter.

    Args:
        folder: With PEFT's two files.
        shapes: Module within a block -> `(out, in)`.
        layers: How many blocks the base has.
        dtype: What the adapter is computed in.
        device: Where.
        weights_at: The base's own weights, which a DoRA's norms are of.

    Raises:
        IntegrityError: A method that the engine does not run, or weights are missing, unexpected or of another shape
            than the base asks for.
    """
    config = _read_config(folder)
    modules = _modules(config, shapes, layers)
    if not modules:
        raise IntegrityError("The adapter does not fit the base: it changes none of its layers.", where=str(folder))
    files = _Files(config, read_tensors(folder), modules, shapes, folder)
    match config:
        case AdaLoraConfig():
            pieces = _adalora(files)
        case LoraConfig():
            pieces = _lora(files, weights_at)
        case VeraConfig():
            pieces = _vera(files)
        case _:
            pieces = _ia3(files)
    sites: dict[tuple[int, str], dict[int, _Piece]] = {}
    for (layer, module), piece in pieces.items():
        site, place = _PLACES[module]
        sites.setdefault((layer, site), {})[place] = piece
    made = {where: _fused(where[1], found, shapes, dtype, device) for where, found in sites.items()}
    return LoraWeights(made, tuple(getattr(config, "alora_invocation_tokens", None) or ()))


def _read_config(folder: Path) -> PeftConfig:
    """Read from the folder and nowhere else."""
    try:
        raw: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
        kind = _KINDS.get(raw["peft_type"])
        if kind is None:
            raise _unsupported(f"The engine does not run adapters of the type {raw['peft_type']}.", folder)
        _refuse_odd(raw, folder)
        known = {name: value for name, value in raw.items() if name in kind.__dataclass_fields__}
        if kind is AdaLoraConfig:
            known.pop("r", None)  # PEFT warns that it has no meaning
        return kind(**known | {"inference_mode": True})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"The adapter's configuration is not readable: {error!r}", where=str(folder)) from error


def _refuse_odd(raw: Mapping[str, Any], folder: Path) -> None:
    odd = [name for name in _UNSUPPORTED if raw.get(name)]
    odd += ["bias"] * (raw.get("bias", "none") != "none")
    odd += ["save_projection"] * (not raw.get("save_projection", True))
    if odd:
        raise _unsupported(f"The engine does not run adapters with {', '.join(odd)}.", folder)


def _unsupported(what: str, folder: Path) -> IntegrityError:
    return IntegrityError(what, where=str(folder / CONFIG), remedy="Tune it again by one of the registered methods.")


def _modules(config: Any, shapes: Mapping[str, Sequence[int]], layers: int) -> list[tuple[int, str]]:
    """The (layer, module)s that the configuration names."""
    targets = config.target_modules
    chosen = getattr(config, "layers_to_transform", None)
    numbers = range(layers) if chosen is None else [chosen] if isinstance(chosen, int) else sorted(chosen)

    def named(layer: int, module: str) -> bool:
        if isinstance(targets, str) and targets != "all-linear":
            return re.fullmatch(targets, _name(layer, module)) is not None
        return targets == "all-linear" or module.rpartition(".")[2] in (targets or ())

    return [(layer, module) for layer in numbers for module in shapes if named(layer, module)]


def _name(layer: int, module: str) -> str:
    return f"model.layers.{layer}.{module}"


def _key(layer: int, module: str, name: str) -> str:
    return f"base_model.model.{_name(layer, module)}.{name}"


# ------------------------------------------------------------------------------------------------------- methods


def _lora(files: _Files, weights_at: WeightsAt) -> _Pieces:
    """Any LoRA: A and B, and DoRA's magnitudes."""
    ranks = {module: scaled_rank(files.config, module.rpartition(".")[2]) for module in files.shapes}
    wanted: dict[str, tuple[int, ...]] = {}
    for layer, module in files.modules:
        (out, width), rank = files.shapes[module], ranks[module][0]
        wanted[_key(layer, module, "lora_A.weight")] = (rank, width)
        wanted[_key(layer, module, "lora_B.weight")] = (out, rank)
        if files.config.use_dora:
            wanted[_key(layer, module, "lora_magnitude_vector")] = (out,)
    files.require(wanted)
    pieces = {}
    for layer, module in files.modules:
        a, b = (files.get(layer, module, f"lora_{side}.weight") for side in "AB")
        piece = _Piece(a, b * ranks[module][1])
        if files.config.use_dora:
            piece = _dora(piece, files.get(layer, module, "lora_magnitude_vector"), layer, module, files, weights_at)
        pieces[layer, module] = piece
    return pieces


def _dora(piece: _Piece, magnitude: Tensor, layer: int, module: str, files: _Files, weights_at: WeightsAt) -> _Piece:
    """`m / |W + B A|` times the product, but for the bias."""
    assert piece.a is not None and piece.b is not None
    site, place = _PLACES[module]
    weight, bias = weights_at(layer, site)
    start = sum(files.shapes[name][0] for name in SITES[site][:place])
    rows = slice(start, start + len(magnitude))
    changed = weight[rows].float().cpu() + piece.b @ piece.a
    scale = magnitude / torch.linalg.vector_norm(changed, dim=1)
    shift = None if bias is None else bias[rows].float().cpu() * (1 - scale)
    return _Piece(piece.a, piece.b * scale[:, None], scale, shift)


def _adalora(files: _Files) -> _Pieces:
    """`B (E * A)`, of as many ranks as each layer was left with."""
    config = files.config
    kept = {name: sum(ranks) for name, ranks in (config.rank_pattern or {}).items()}
    wanted: dict[str, tuple[int, ...]] = {}
    for layer, module in files.modules:
        (out, width), rank = files.shapes[module], kept.get(f"{_name(layer, module)}.lora_E", config.init_r)
        shapes = {"lora_A": (rank, width), "lora_B": (out, rank), "lora_E": (rank, 1)}
        wanted |= {_key(layer, module, name): shape for name, shape in shapes.items()}
    files.require(wanted)
    scale = (config.lora_alpha if config.lora_alpha > 0 else config.init_r) / (config.init_r + 1e-5)  # as PEFT has it
    pieces = {}
    for layer, module in files.modules:
        a, b, e = (files.get(layer, module, f"lora_{part}") for part in "ABE")
        pieces[layer, module] = _Piece(a * e, b * scale)
    return pieces


def _vera(files: _Files) -> _Pieces:
    """`b * B (d * A)`; modules of one product share A, so that it is computed once for all of them."""
    rank = files.config.r
    out, width = (max(files.shapes[module][side] for _, module in files.modules) for side in (0, 1))
    wanted: dict[str, tuple[int, ...]] = {"base_model.vera_A": (rank, width), "base_model.vera_B": (out, rank)}
    for layer, module in files.modules:
        wanted[_key(layer, module, "vera_lambda_b")] = (files.shapes[module][0],)
        wanted[_key(layer, module, "vera_lambda_d")] = (rank,)
    files.require(wanted)
    shared_a, shared_b = (files.tensors[f"base_model.vera_{side}"].float() for side in "AB")
    inner = {size: shared_a[:, :size].contiguous() for size in {shape[1] for shape in files.shapes.values()}}
    pieces = {}
    for layer, module in files.modules:
        out, width = files.shapes[module]
        b, d = (files.get(layer, module, f"vera_lambda_{side}") for side in "bd")
        pieces[layer, module] = _Piece(inner[width], b[:, None] * shared_b[:out] * d)
    return pieces


def _ia3(files: _Files) -> _Pieces:
    """Scales of outputs; those of the down projection's inputs are put on the up projection's outputs."""
    inner = {where for where in files.modules if _scales_inputs(files.config.feedforward_modules, *where)}
    if odd := {module for _, module in inner} - {_DOWN}:
        raise _unsupported(f"The engine does not scale the inputs of {min(odd)}.", files.folder)
    files.require(
        {
            _key(*where, "ia3_l"): (1, files.shapes[where[1]][1]) if where in inner else (files.shapes[where[1]][0], 1)
            for where in files.modules
        }
    )
    scales: dict[tuple[int, str], Tensor] = {}
    for layer, module in files.modules:
        where = (layer, _UP if (layer, module) in inner else module)
        scale = files.get(layer, module, "ia3_l").flatten()
        scales[where] = scales[where] * scale if where in scales else scale
    return {where: _Piece(scale=scale) for where, scale in scales.items()}


def _scales_inputs(told: Any, layer: int, module: str) -> bool:
    if isinstance(told, str):
        return re.fullmatch(told, _name(layer, module)) is not None
    return any(module.endswith(name) for name in told or ())


# ------------------------------------------------------------------------------------------------------- products


def _fused(
    site: str,
    found: Mapping[int, _Piece],
    shapes: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
) -> Part:
    """The modules' pieces as one part: their A below each other, their B on the diagonal, their scales in a row."""
    outs, width = [shapes[name][0] for name in SITES[site]], shapes[SITES[site][0]][1]
    starts = {place: sum(outs[:place]) for place in found}
    inner = {id(piece.a): piece.a for piece in found.values() if piece.a is not None}
    columns, column = {}, 0
    for key, a in inner.items():
        columns[key], column = column, column + len(a)
    b = torch.zeros(sum(outs), column)
    scale, shift = torch.ones(sum(outs)), torch.zeros(sum(outs))
    for place, piece in found.items():
        rows = slice(starts[place], starts[place] + outs[place])
        if piece.a is not None and piece.b is not None:
            b[rows, columns[id(piece.a)] : columns[id(piece.a)] + len(piece.a)] = piece.b
        if piece.scale is not None:
            scale[rows] = piece.scale
        if piece.shift is not None:
            shift[rows] = piece.shift
    scaled = any(piece.scale is not None for piece in found.values())
    shifted = any(piece.shift is not None for piece in found.values())
    return Part(
        torch.cat([*inner.values(), torch.zeros(0, width)]).to(device, dtype),
        b.to(device, dtype),
        scale.to(device) if scaled else None,
        shift.to(device) if shifted else None,
    )
