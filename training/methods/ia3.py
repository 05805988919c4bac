"""IA3: keys, values and the feed-forward part's inner activations scaled (Liu et al. 2022, arXiv 2205.05638), by PEFT.

A vector of ones at the start for each: outputs of k and v, inputs of the down projection. In SmolLM2-135M these are
57,600 numbers for all layers.
"""

from typing import Any

from peft import IA3Config

from moatelier.contracts import TrainSpec
from training.methods import tuner
from training.methods.tuner import config, restore, weights

__all__ = ["attach", "config", "restore", "weights"]


def attach(model: Any, spec: TrainSpec, first_layer: int) -> Any:
    """Put vectors of ones in float32 into the blocks from `first_layer` up; the rest is frozen.

    Args:
        model: A causal model of transformers; it is changed in place.
        spec: Nothing of it matters here: there is no rank, and nothing is drawn or dropped.
        first_layer: Index of the lowest block that gets them.
    """
    # PEFT's configuration has no list of layers here; as an expression the names can say which.
    blocks = "|".join(str(number) for number in range(first_layer, len(model.get_decoder().layers)))
    inner = rf"model\.layers\.({blocks})\.mlp\.down_proj"
    told = rf"model\.layers\.({blocks})\.(self_attn\.(k|v)_proj|mlp\.down_proj)"
    return tuner.wrap(model, spec, IA3Config(target_modules=told, feedforward_modules=inner, task_type="CAUSAL_LM"))
