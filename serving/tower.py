"""A pass over an image tower for rows of different adapters: what they have in common runs once.

    pixels -> stages 0..3 -> state at 4 -> stages 4..6           -> features   the base, linear probes
                                        -> stages 4..6 + parts   -> features   image_lora: many adapters in one batch
                                        -> own stages 4..6       -> features   top_blocks: one adapter after another

Rows of low-rank adapters run beside those of the base. No adapter has a copy of a stage: those of top blocks run the
base's modules with tensors of their own.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from modalities.machine import DTYPES
from modalities.vision.config import ImageTransform
from modalities.vision.model import VisionBase
from modalities.vision.pixels import to_pixels
from modalities.vision.towers import channels_last
from modalities.vision.tuned import lora_layers
from serving.adapters import Loaded
from serving.hooked import Hooked
from serving.image_weights import ImageWeights
from serving.remembered import Remembered
from serving.stacks import Stacks

MOST = 32
"""Rows that go through the tower at once: more of them are no faster on a CPU, and their maps need memory."""

Adapter = Loaded[ImageWeights]


@dataclass(frozen=True)
class StateKey:
    """Names what stages made of an image.

    Attributes:
        pixels: Digest of the image's pixels.
        transform: Digest of how it became the tower's input.
        stages: How many stages ran.
        owner: Digest of the adapter; of the base where none has changed anything yet.
    """

    pixels: str
    transform: str
    stages: int
    owner: str


@dataclass(frozen=True)
class Seen:
    """An image as an adapter sees it.

    Attributes:
        image: In RGB.
        pixels: Its digest.
        transform: How it becomes the tower's input.
        adapter: Its weights are held; None is the base.
    """

    image: Image.Image
    pixels: str
    transform: ImageTransform
    adapter: Adapter | None = None


@dataclass(eq=False)
class _Run:
    """An image on its way through some stages, with the low-rank parts of one adapter or none."""

    pixels: str
    start: int
    stop: int
    adapter: Adapter | None = None
    state: Tensor | None = None


class TowerPasses:
    """Runs the tower.

    Args:
        base: Its tower gets hooks.
        states: By `StateKey`, what earlier passes made, `[1, ...]`.
    """

    def __init__(self, base: VisionBase, states: Remembered[Tensor]) -> None:
        self.base, self.states = base, states
        self.stages = len(base.tower.stages)
        self._hooked = Hooked(nn.ModuleDict({"tower": base.tower}), lora_layers(base.tower, 0))
        self._stacks = Stacks()
        self.forget = self._stacks.forget
        # Within a tower of an unknown kind images may be cut up and mixed, so that a row is not one image's.
        self.mixes = self.stages > 1
        self.work = 0
        """Stages times images computed so far: what sharing saves."""

    def features(self, seen: Sequence[Seen]) -> Tensor:
        """The tower's features of each row, `[rows, width]` in float32."""
        alike: dict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(seen):
            alike[each.transform.digest].append(place)
        found: dict[int, Tensor] = {}
        for places in alike.values():
            for at in range(0, len(places), MOST):
                chunk = places[at : at + MOST]
                found |= zip(chunk, _Look(self, [seen[place] for place in chunk]).features(), strict=True)
        if not seen:
            return torch.zeros(0, self.base.tower.width)
        return torch.cat([found[place] for place in range(len(seen))]).float()

    def run(self, x: Tensor, start: int, stop: int, owners: Sequence[Adapter | None]) -> Tensor:
        """Some stages for rows of the base and of low-rank adapters."""
        self.work += (stop - start) * len(x)
        with self._hooked.acting(self._stacks.over(owners, x.device)):
            return self.base.tower.run_stages(x, start, stop)

    def run_own(self, x: Tensor, adapter: Adapter) -> Tensor:
        """The last stages with an adapter's own tensors."""
        assert adapter.weights is not None
        for number, own in adapter.weights.stages.items():
            self.work += len(x)
            x = functional_call(self.base.tower.stages[number], dict(own), (channels_last(x.float()),))
        return x


class _Look:
    """Rows of one transform that go through the tower together."""

    def __init__(self, passes: TowerPasses, seen: Sequence[Seen]) -> None:
        self._passes, self._seen = passes, seen
        self._transform = seen[0].transform
        self._images = {each.pixels: each.image for each in seen}
        self._known: dict[StateKey, Tensor] = {}
        self._needed: set[StateKey] = set()

    def features(self) -> list[Tensor]:
        """`[1, width]` for each row."""
        last = self._passes.stages
        wanted = {self._key(each.pixels, last, each.adapter): each for each in self._seen}
        missing = [each for key, each in wanted.items() if not self._recall(key)]
        self._needed = {self._key(each.pixels, last, each.adapter) for each in missing}
        self._run(self._frozen(missing) + self._low_rank(missing))
        for adapter, pixels in self._owning(missing).items():
            states = torch.cat([self._state(each, adapter.first_layer) for each in pixels])
            for each, state in zip(pixels, self._passes.run_own(states, adapter), strict=True):
                self._keep(self._key(each, last, adapter), state[None])
        return [self._known[self._key(each.pixels, last, each.adapter)] for each in self._seen]

    def _key(self, pixels: str, stages: int, adapter: Adapter | None = None) -> StateKey:
        changed = adapter is not None and stages > adapter.first_layer
        owner = adapter.digest if adapter is not None and changed else self._passes.base.digest
        return StateKey(pixels, self._transform.digest, stages, owner)

    def _frozen(self, missing: Sequence[Seen]) -> list[_Run]:
        """What of the base has to run, from the last state that is kept of each image."""
        needs: dict[str, set[int]] = defaultdict(set)
        for each in missing:
            stages = each.adapter.first_layer if each.adapter else self._passes.stages
            key = self._key(each.pixels, stages)
            if stages > 0 and key not in self._known and not self._recall(key):
                needs[each.pixels].add(stages)
                self._needed.add(key)
        runs = []
        for pixels, stops in needs.items():
            below = range(min(stops) - 1, 0, -1)
            start = next((stages for stages in below if self._recall(self._key(pixels, stages))), 0)
            runs.append(_Run(pixels, start, max(stops)))
        return runs

    def _low_rank(self, missing: Sequence[Seen]) -> list[_Run]:
        return [
            _Run(each.pixels, each.adapter.first_layer, self._passes.stages, each.adapter)
            for each in missing
            if each.adapter and each.adapter.weights and each.adapter.weights.parts
        ]

    def _owning(self, missing: Sequence[Seen]) -> dict[Adapter, list[str]]:
        found: dict[Adapter, list[str]] = defaultdict(list)
        for each in missing:
            if each.adapter and each.adapter.weights and each.adapter.weights.stages:
                found[each.adapter].append(each.pixels)
        return found

    def _run(self, runs: Sequence[_Run]) -> None:
        cuts = {place for run in runs for place in (run.start, run.stop)}
        cuts |= {key.stages for key in self._needed}
        for start, stop in pairwise(sorted(cuts)):
            active = [run for run in runs if run.start <= start < run.stop]
            for batch in self._batches(active):
                states = [self._state(run.pixels, start) if run.state is None else run.state for run in batch]
                done = self._passes.run(torch.cat(states), start, stop, [run.adapter for run in batch])
                for run, state in zip(batch, (row[None] for row in done), strict=True):
                    run.state = state
                    self._keep(self._key(run.pixels, stop, run.adapter), state)

    def _batches(self, active: Sequence[_Run]) -> Iterator[list[_Run]]:
        apart: dict[Adapter | None, list[_Run]] = defaultdict(list)
        for run in active:
            apart[None if self._passes.mixes else run.adapter].append(run)
        yield from apart.values()

    def _state(self, pixels: str, stages: int) -> Tensor:
        """What the base made of an image."""
        key = self._key(pixels, stages)
        if stages == 0 and key not in self._known:
            base, image = self._passes.base, self._images[pixels]
            self._known[key] = to_pixels(image, self._transform)[None].to(base.device, DTYPES[base.precision])
        return self._known[key]

    def _recall(self, key: StateKey) -> bool:
        state = self._passes.states.get(key)
        if state is not None:
            self._known[key] = state
        return state is not None

    def _keep(self, key: StateKey, state: Tensor) -> None:
        if key in self._needed:
            self._known[key] = state
            own = state.clone()  # a view would keep the whole batch
            self._passes.states.put(key, own, own.nbytes)
