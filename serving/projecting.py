"""A bundle's projector, read and refused where it is not what the bundle says."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moatelier.errors import IntegrityError
from modalities.imagetext.config import PROJECTOR, Sight, read_sight
from modalities.imagetext.projector import Projector


def read_projector(folder: Path, width: int) -> tuple[Sight, Projector]:
    """The projector of a bundle whose bytes have been verified.

    Args:
        folder: Of the bundle.
        width: Of the language model's states.

    Raises:
        IntegrityError: The bundle does not say how pictures come in, or tensors are missing, unexpected or of another
            shape.
    """
    sight = read_sight(folder)
    try:
        tensors: dict[str, Tensor] = load_file(folder / PROJECTOR)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(
            f"The projector's weights are not readable: {error}", where=str(folder / PROJECTOR)
        ) from error
    mean = tensors.get("mean")
    seen = mean.shape[-1] if mean is not None and mean.ndim == 2 else 1
    projector = Projector(sight.vectors, seen, sight.hidden, width)
    wanted = {name: tensor.shape for name, tensor in projector.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise IntegrityError(
            "The projector's tensors are missing, too many or of another shape.",
            where=str(folder / PROJECTOR),
            remedy="Tune the adapter again on this base.",
        )
    projector.load_state_dict(tensors)
    return sight, projector.eval().requires_grad_(False)
