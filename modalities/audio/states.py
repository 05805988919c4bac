"""What the frozen lower part of the encoder makes of clips, computed once for all epochs and trials.

The cache is that of `modalities.frozen`: an item is a clip, and has a vector for each position of the window. Items
stand in the order of the clips' contents, whatever order the rows have.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from moatelier.ids import digest_json
from modalities.audio.config import positions
from modalities.audio.encoder import run_encoder
from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, features
from modalities.frozen import FrozenStates, Layers, open_states
from modalities.machine import DTYPES

FILL_POSITIONS = 4096
"""Positions that go through the frozen part at once while the cache is filled."""


class EncoderStates:
    """The states at a boundary of the encoder for any of the given clips. Use `close()` at the end.

    At boundary 0 there is nothing to be kept: spectrograms are made as fast as they are read.

    Args:
        base: The loaded base with its window; only its frozen part is used.
        clips: A digest of each clip's content; equal ones are computed once.
        open_clip: Place among `clips` -> samples that fit into the window.
        stop: The boundary, see `modalities.audio.encoder`.
        progress: Told (batches done, batches in all) while the cache is filled; may raise to stop.
        cache: Keep the states on disk if they fit there.
    """

    def __init__(
        self,
        base: AudioBase,
        clips: Sequence[str],
        open_clip: Callable[[int], Samples],
        stop: int,
        *,
        progress: Callable[[int, int], None] = lambda *_: None,
        cache: bool = True,
    ) -> None:
        self._base, self._open_clip, self._stop = base, open_clip, stop
        first = {clip: place for place, clip in reversed(list(enumerate(clips)))}
        distinct = sorted(first)
        self._places = [first[clip] for clip in distinct]
        number = {clip: item for item, clip in enumerate(distinct)}
        self._items = [number[clip] for clip in clips]
        self._states: FrozenStates | None = None
        if stop > 0:
            layers = self._layers(distinct)
            if cache:
                self._states = open_states(layers, self._compute, progress)
            else:
                self._states = FrozenStates(layers, self._compute, None, None)

    @property
    def cached(self) -> bool:
        """Whether everything lies on disk; else it is computed at each use."""
        return self._states is not None and self._states.cached

    def read(self, rows: Sequence[int]) -> Tensor:
        """What stands at the boundary for some clips, by their places, as `run_encoder` takes it."""
        base, items = self._base, [self._items[row] for row in rows]
        if self._states is None:
            return self._mels(items)
        return self._states.read(items).to(base.device).view(len(rows), positions(base.window_s), -1)

    def close(self) -> None:
        """Let go of the cache."""
        if self._states is not None:
            self._states.close()

    def _layers(self, distinct: Sequence[str]) -> Layers:
        base, held = self._base, positions(self._base.window_s)
        step, count = max(1, FILL_POSITIONS // held), len(distinct)
        return Layers(
            key={
                "base": base.digest,
                "boundary": self._stop,
                "template": base.template_digest,
                "precision": base.precision,
                "device": base.device.type,
                "clips": digest_json(distinct),
            },
            sizes=(held,) * count,
            width=base.config.n_audio_state,
            dtype=DTYPES[base.precision],
            batches=tuple(range(at, min(at + step, count)) for at in range(0, count, step)),
        )

    def _mels(self, items: Sequence[int]) -> Tensor:
        clips = [self._open_clip(self._places[item]) for item in items]
        return features(clips, self._base).to(DTYPES[self._base.precision])

    def _compute(self, items: Sequence[int]) -> Tensor:
        return run_encoder(self._base.model.encoder, self._mels(items), 0, self._stop).flatten(0, 1)
