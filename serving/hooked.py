"""Adapters of one pass over a model whose layers know nothing of them: its forward pass stays its own."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from serving.lora import StackedPass


class Hooked:
    """Some of a model's layers, each of which adds what the adapters of the pass under way add to its product.

    Args:
        model: Gets a hook on each layer.
        names: Of linear layers and pointwise convolutions within it; adapters call them the same.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.layers = {name: model.get_submodule(name) for name in names}
        self._acting: StackedPass | None = None
        for name, layer in self.layers.items():
            layer.register_forward_hook(partial(self._add, name))

    @contextmanager
    def acting(self, adapters: StackedPass | None) -> Iterator[None]:
        """Let these adapters act on what runs within."""
        self._acting = adapters
        try:
            yield
        finally:
            self._acting = None

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], product: Tensor) -> Tensor | None:
        if self._acting is None or not self._acting.acts_at(name):
            return None
        if isinstance(layer, nn.Conv2d):
            return _onto_map(self._acting, name, layer, inputs[0], product)
        x = inputs[0]
        return self._acting.at(name, x.flatten(0, -2), product.flatten(0, -2)).view(product.shape)


def _onto_map(adapters: StackedPass, name: str, layer: nn.Conv2d, x: Tensor, product: Tensor) -> Tensor:
    """The same for a map `[batch, channels, height, width]`, which lies with its channels last."""
    down, across = layer.stride
    x, places = x[:, :, ::down, ::across].permute(0, 2, 3, 1), product.permute(0, 2, 3, 1)
    changed = adapters.at(name, x.flatten(0, 2), places.flatten(0, 2))
    return changed.view(places.shape).permute(0, 3, 1, 2)


def shape_of(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a layer that low-rank parts can be added to."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features
