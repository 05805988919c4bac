"""VeRA: `W x + b * B (d * A x)` with random A and B shared by all layers (Kopiczko et al. 2023, arXiv 2310.11454).

Only the vectors b `[out]` and d `[rank]` of each layer are tuned, b from zero. By PEFT. A and B are saved with them,
since a generator's numbers may differ from one version of torch to another.
"""

from typing import Any

from peft import VeraConfig

from moatelier.contracts import TrainSpec
from training.methods import tuner
from training.methods.tuner import config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Put fresh vectors in float32 on all linear layers of the blocks from `first_layer` up; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place.
        spec: Gives rank, dropout and the seed of A and B; alpha has no meaning here.
        first_layer: Index of the lowest block that gets adapters.
    """
    fields = tuner.in_blocks(model, first_layer)
    made = VeraConfig(
        r=spec.rank, vera_dropout=spec.dropout, projection_prng_key=spec.seed, save_projection=True, **fields
    )
    return tuner.wrap(model, spec, made)
