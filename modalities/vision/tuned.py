"""Which layers of a tower each method tunes, the same in training and in serving.

Names are those within a classifier or beside it: `tower.stages.4.0.conv_pw`.
"""

from torch import Tensor, nn

from modalities.vision.towers import Tower

_WHOLE = (nn.Conv2d, nn.Linear)


def whole_weights(tower: Tower, first: int) -> dict[str, Tensor]:
    """What top blocks tune in the stages from `first` up: convolutions and linear layers, no norms."""
    found: dict[str, Tensor] = {}
    for prefix, stage in _stages(tower, first):
        for name, module in stage.named_modules():
            if isinstance(module, _WHOLE):
                found |= {f"{prefix}.{name}.{part}": weight for part, weight in module.named_parameters(recurse=False)}
    return found


def lora_layers(tower: Tower, first: int) -> list[str]:
    """What LoRA adapts in the stages from `first` up: linear layers and pointwise convolutions."""
    return [
        f"{prefix}.{name}"
        for prefix, stage in _stages(tower, first)
        for name, module in stage.named_modules()
        if _adapts(module)
    ]


def _stages(tower: Tower, first: int) -> list[tuple[str, nn.Module]]:
    return [(f"tower.stages.{number}", stage) for number, stage in list(enumerate(tower.stages))[first:]]


def _adapts(module: nn.Module) -> bool:
    # Depthwise ones stay frozen: PEFT refuses grouped ones at most ranks, and they hold few of the weights.
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)
