"""The part of an adapter that names classes."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True)
class Head:
    """Names classes by features of what was seen or heard."""

    weight: Tensor
    """`[labels, width]`."""
    bias: Tensor
    """`[labels]`."""

    def __call__(self, features: Tensor) -> Tensor:
        """Logits `[..., labels]` of features `[..., width]`."""
        return linear(features, self.weight, self.bias)

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self.weight.nbytes + self.bias.nbytes
