"""What methods that tune a model's own weights share: taking them out, and putting them back."""

from collections.abc import Mapping

from torch import Tensor

from moatelier.errors import IntegrityError


def taken(tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, by name."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tuned.items())}


def put_back(tuned: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Put tensors back, bit by bit.

    Raises:
        IntegrityError: A tensor is missing, one too many, or of another shape.
    """
    wrong = tuned.keys() ^ weights.keys()
    wrong |= {name for name in tuned.keys() & weights.keys() if tuned[name].shape != weights[name].shape}
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} tensors do not belong to the adapter, are missing or have another shape.",
            where=min(wrong),
            remedy="Start the training anew.",
        )
    for name, tensor in tuned.items():
        tensor.data.copy_(weights[name])
