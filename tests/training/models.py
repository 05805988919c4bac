"""The tiny base with an adapter that does something, and the inputs that the loop would give it."""

from dataclasses import dataclass
from typing import Any

import torch

from modalities.text.model import TextBase, load_base
from tests.training.rows import rows, spec
from training.batches import Example
from training.inputs import Source
from training.methods import lora
from training.text import encode


@dataclass(frozen=True)
class Tuned:
    base: TextBase
    adapted: Any
    source: Source
    examples: list[Example]

    @property
    def head(self) -> Any:
        return self.base.model.get_output_embeddings()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.adapted.parameters() if parameter.requires_grad]


def tuned(count: int = 8, *, cache: bool = True, first_layer: int = 4, **changes: Any) -> Tuned:
    """`count` rows of uneven lengths before an adapter whose B is not zero."""
    base = load_base("tiny", "fp32")
    examples = encode(base, "train", rows(count))
    source = Source(base, examples, first_layer, "fp32", cache=cache)
    adapted = lora.attach(base.model, spec("0" * 64, **changes), first_layer)
    stir(adapted)
    return Tuned(base, adapted, source, examples)


def stir(adapted: Any) -> None:
    """Give B values as after some training."""
    chance = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=chance)
