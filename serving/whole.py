"""Adapters that are whole weights: a model's own upper layers, or all of it, in place of the base's.

They cannot be added to a product as low-rank parts are: rows of such an adapter run in a pass of their own from its
first layer up. Below it they are the base's rows like any others, in one pass with them and from the same blocks.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moatelier.errors import IntegrityError
from modalities.bundle import CONFIG, WEIGHTS
from modalities.text.config import WHOLE
from serving.llama import Layer, Llama, Own
from serving.lora import LoraWeights, read_tensors

_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_TABLE, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class WholeWeights:
    """An adapter in memory.

    Attributes:
        own: What stands in place of the base's.
        first_layer: The lowest layer that it changes.
        invocation: Empty: it is always active.
    """

    own: Own
    first_layer: int
    invocation: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes; passes make nothing more of it."""
        return self.own.bytes


TextWeights = LoraWeights | WholeWeights
"""What an adapter of a text model may be."""


def own(weights: TextWeights | None, last: int | None = None) -> Own | None:
    """What an adapter has in place of the base's; None where that is nothing below layer `last`."""
    if not isinstance(weights, WholeWeights) or (last is not None and weights.first_layer >= last):
        return None
    return weights.own


def is_whole(folder: Path) -> bool:
    """Whether a bundle says that it is of whole weights.

    Raises:
        IntegrityError: Its configuration is not readable.
    """
    try:
        told: Mapping[str, Any] = json.loads((folder / CONFIG).read_bytes())
        return bool(told.get(WHOLE))
    except (OSError, ValueError, AttributeError) as error:
        raise IntegrityError(f"The adapter's configuration is not readable: {error!r}", where=str(folder)) from error


def read_whole(folder: Path, model: Llama) -> WholeWeights:
    """Read a bundle of whole weights.

    Raises:
        IntegrityError: Weights are missing, unexpected or of another shape than the base's.
    """
    blocks: dict[int, dict[str, torch.Tensor]] = {}
    rest: dict[str, torch.Tensor] = {}
    for name, tensor in read_tensors(folder).items():
        found = _BLOCK.fullmatch(name)
        if found:
            blocks.setdefault(int(found[1]), {})[found[2]] = tensor.to(model.device)
        else:
            rest[name] = tensor.to(model.device)
    first = min(blocks, default=len(model.layers))
    if sorted(blocks) != list(range(first, len(model.layers))) or not blocks:
        raise _misfit(folder, f"it has layers {sorted(blocks)} of {len(model.layers)}")
    _check_rest(rest, first, model, folder)
    layers: dict[int, Layer] = {}
    for number in sorted(blocks):
        try:
            layers[number] = model.block(number, blocks.pop(number))
        except RuntimeError as error:  # torch tells of missing, unexpected and misshapen tensors in one
            raise _misfit(folder, f"layer {number}: {' '.join(str(error).split())}") from error
    ends = model.ends(rest[_TABLE], rest[_NORM], rest.get(_HEAD)) if rest else None
    return WholeWeights(Own(layers, ends), first)


def _check_rest(rest: Mapping[str, torch.Tensor], first: int, model: Llama, folder: Path) -> None:
    """What stands beside the blocks is all or nothing, and all only where all blocks are there."""
    if not rest:
        return
    wanted = {_TABLE: model.table_shape, _NORM: model.table_shape[1:]}
    wanted |= {} if model.tied else {_HEAD: model.table_shape}
    found = {name: tensor.shape for name, tensor in rest.items()}
    if first or found != wanted:
        raise _misfit(folder, f"beside its layers it has {', '.join(sorted(rest))}")


def _misfit(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(f"The adapter does not fit the base: {why}.", where=str(folder / WEIGHTS))
