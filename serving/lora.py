"""LoRA weights in PEFT's format, and adding several adapters' parts to one product.

Every token of a pass has at most one adapter. The adapters of a pass are stacked: one dense `x A^T` with the rows of
all, a mask that keeps each token's own, one dense `B^T`. That costs less than gathering or a loop over adapters.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from moatelier.errors import IntegrityError, InvalidRequest
from modalities.bundle import CONFIG, WEIGHTS

_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "trainable_token_indices",
    "target_parameters",
)


@dataclass(frozen=True)
class Part:
    """An adapter at one fused product: `scale * (W x) + shift + B A x`, with LoRA's own scale in B."""

    a: torch.Tensor
    """`[rank, in]`: the rows of all modules that are part of the product; none where it is only scaled."""
    b: torch.Tensor
    """`[out, rank]`."""
    scale: torch.Tensor | None = None
    """`[out]` in float32, of the base's product (DoRA, IA3); None is 1."""
    shift: torch.Tensor | None = None
    """`[out]` in float32; None is 0."""

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(kept.nbytes for kept in (self.a, self.b, self.scale, self.shift) if kept is not None)


class LowRank(Protocol):
    """Weights that are low-rank parts, whether or not there is more to them."""

    @property
    def parts(self) -> Mapping[Any, Part]:
        """Place -> the part there."""


@dataclass(frozen=True)
class LoraWeights:
    """An adapter in memory.

    Attributes:
        parts: (layer, site) -> its part.
        invocation: The tokens that activate it (aLoRA, arXiv 2504.12397); empty when it is always active.
    """

    parts: Mapping[tuple[int, str], Part]
    invocation: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """What it takes."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def size(self) -> int:
        """Once as it is read, once in the stack that its passes use."""
        return 2 * self.bytes

    @property
    def first_layer(self) -> int:
        """The lowest layer that it changes."""
        return min(layer for layer, _ in self.parts)


def invoked_at(ids: Sequence[int], tokens: Sequence[int]) -> int:
    """Where the last occurrence of an activated adapter's tokens begins; 0 for an adapter that is always active.

    Raises:
        InvalidRequest: They do not occur.
    """
    wanted = list(tokens)
    for start in range(len(ids) - len(wanted), -1, -1) if wanted else ():
        if list(ids[start : start + len(wanted)]) == wanted:
            return start
    if wanted:
        raise InvalidRequest("The prompt lacks the tokens that activate the adapter.", where="messages")
    return 0


class Stack:
    """Several adapters as one pair of matrices a product.

    Args:
        adapters: Each once, in the order of their numbers in `StackedPass`.
    """

    def __init__(self, adapters: Sequence[LowRank]) -> None:
        self.parts: dict[Any, tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]] = {}
        self.scales: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        """Place -> scale and shift of each adapter, `[adapters + 1, out]`; the last ones, 1 and 0, are nobody's."""
        for where in dict.fromkeys(where for adapter in adapters for where in adapter.parts):
            present = [(n, adapter.parts[where]) for n, adapter in enumerate(adapters) if where in adapter.parts]
            columns = tuple(n for n, part in present for _ in range(len(part.a)))
            a = torch.cat([part.a for _, part in present])
            b = torch.cat([part.b for _, part in present], dim=1)
            self.parts[where] = (a.T, b.T, columns)
            if any(part.scale is not None for _, part in present):
                scales = a.new_ones(len(adapters) + 1, len(b), dtype=torch.float32)
                shifts = torch.zeros_like(scales)
                for n, part in present:
                    scales[n] = scales[n] if part.scale is None else part.scale
                    shifts[n] = shifts[n] if part.shift is None else part.shift
                self.scales[where] = scales, shifts


class StackedPass:
    """The adapters of one pass over tokens, or over images of as many places each.

    Args:
        stack: The adapters.
        owners: Each token's or image's adapter, by its number in the stack; -1 is none. `[rows]`
    """

    def __init__(self, stack: Stack, owners: torch.Tensor) -> None:
        self._stack, self._owners = stack, owners
        self._masks: dict[tuple[int, ...], torch.Tensor | None] = {}

    def add(self, layer: int, site: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The base's product y `[tokens, out]` of x, with every token's own adapter added, in place."""
        return self.at((layer, site), x, y) if self.acts_at((layer, site)) else y

    def acts_at(self, where: Any) -> bool:
        """Whether an adapter of the pass changes this product."""
        return where in self._stack.parts

    def at(self, where: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The base's product y `[rows x places, out]` of x, with every row's own adapter added, in place."""
        a, b, columns = self._stack.parts[where]
        if where in self._stack.scales:
            # Nobody's number is -1, which is the last row.
            scale, shift = (table[self._owners][:, None] for table in self._stack.scales[where])
            y.view(len(self._owners), -1, y.shape[1]).mul_(scale).add_(shift)
        if not columns:
            return y
        low = x @ a
        mask = self._mask(columns, low)
        if mask is not None:
            low = (low.view(len(mask), -1, len(columns)) * mask[:, None]).view(len(low), -1)
        return y.addmm_(low, b)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows, by their places."""
        self._owners = self._owners[rows]
        self._masks.clear()

    def _mask(self, columns: tuple[int, ...], like: torch.Tensor) -> torch.Tensor | None:
        if columns not in self._masks:
            mask = self._owners[:, None] == torch.tensor(columns, device=like.device)
            self._masks[columns] = None if bool(mask.all()) else mask.to(like.dtype)
        return self._masks[columns]


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """A bundle's tensors.

    Raises:
        IntegrityError: They are not readable.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"The adapter's weights are not readable: {error}", where=str(folder / WEIGHTS)) from error
    return tensors


def read_config(folder: Path, saved: Sequence[str] = ()) -> LoraConfig:
    """A bundle's LoRA configuration, read from its folder and nowhere else.

    Args:
        folder: Of the bundle.
        saved: Modules that it holds whole, beside the low-rank parts.

    Raises:
        IntegrityError: It is not readable, or not of plain LoRA.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
        known = {key: value for key, value in raw.items() if key in LoraConfig.__dataclass_fields__}
        config: PeftConfig = (
            LoraConfig(**(known | {"inference_mode": True})) if raw["peft_type"] == "LORA" else PeftConfig()
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"The adapter's configuration is not readable: {error!r}", where=str(folder)) from error
    plain = isinstance(config, LoraConfig) and config.bias == "none"
    plain = plain and list(getattr(config, "modules_to_save", None) or ()) == list(saved)
    if not plain or any(getattr(config, name, None) for name in _UNSUPPORTED):
        raise IntegrityError("The adapter is not plain LoRA, the only method this engine runs.", where=str(folder))
    assert isinstance(config, LoraConfig)
    return config


def scaled_rank(config: LoraConfig, name: str) -> tuple[int, float]:
    """The rank of a module's part, and what its product is multiplied by."""
    rank = (config.rank_pattern or {}).get(name, config.r)
    alpha = (config.alpha_pattern or {}).get(name, config.lora_alpha)
    return rank, alpha / (rank**0.5 if config.use_rslora else rank)


def require_shapes(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Refuse tensors other than the wanted ones.

    A key that is passed over in silence is an adapter that silently does nothing (peft#2115).

    Raises:
        IntegrityError: Tensors are missing, unexpected or of another shape.
    """
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for problem, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has unexpected", found.keys() - wanted.keys()),
        ("has misshapen", {key for key in wanted.keys() & found.keys() if wanted[key] != found[key]}),
    ):
        if keys:
            what = f"The adapter {problem} weights: {len(keys)}, such as {min(keys)}."
            raise IntegrityError(what, where=str(folder / WEIGHTS))
