"""The image-language engine: a text engine whose adapters are shown pictures. No server, no threads.

picture -> eyes -> projector -> states that stand in the prompt above the frozen layers -> the text engine's own loop

So adapters of words and of pictures run in one batch, sampling and schemas hold here too, and prompts with the same
words share what the frozen layers made of them, whatever the picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from moatelier.contracts import AdapterManifest
from moatelier.errors import IntegrityError, InvalidRequest, NotFound
from moatelier.ids import digest_json
from modalities.bundle import read_manifest
from modalities.imagetext.config import NAME, Sight
from modalities.imagetext.projector import Projector, look
from modalities.imagetext.prompt import spread
from modalities.machine import DTYPES
from modalities.text.model import TextBase
from modalities.vision.duplicates import pixel_digest
from modalities.vision.images import decode_image
from modalities.vision.model import VisionBase, load_base
from modalities.vision.pixels import to_pixels
from serving import parts
from serving.engine import TextEngine
from serving.linear import ServingPrecision
from serving.projecting import read_projector
from serving.remembered import Remembered
from serving.row import Completion, Inset, Prompt, Row, completion
from serving.sampling import Sampling
from serving.turns import prompt_ids, require_room

__all__ = ["Completion", "LookingEngine"]

MOST = 32
"""Pictures that go through the eyes at once."""


@dataclass(frozen=True)
class _Shown:
    """A loaded adapter's own part: which eyes it has, and where their sight goes."""

    sight: Sight
    eyes: VisionBase
    projector: Projector


class LookingEngine:
    """Answers questions about pictures. Not for several threads at once.

    Args:
        base_id: Catalogue id of the language model; it must have been pulled.
        precision: Of its linear layers, see `TextEngine`.
        memory_gb: See `TextEngine`.
        text: An engine of this base that others use as well; None makes one.

    Raises:
        ModelUnavailable: The base has not been pulled, or the machine has no kernels for the precision.
    """

    def __init__(
        self,
        base_id: str,
        precision: ServingPrecision | Literal["auto"] | None = None,
        memory_gb: float | None = None,
        *,
        text: TextEngine | None = None,
    ) -> None:
        self.text = text or TextEngine(base_id, precision, memory_gb)
        self._eyes: dict[str, VisionBase] = {}
        self._shown: dict[str, _Shown] = {}
        self._seen: Remembered[Tensor] = Remembered("seen", self.text.memory)

    @property
    def base(self) -> TextBase:
        """The language model."""
        return self.text.base

    # ---------------------------------------------------------------------------------------------------- adapters

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters that are shown pictures, by name."""
        return {name: manifest for name, manifest in self.text.adapters.items() if name in self._shown}

    def load_adapter(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Verify a sealed bundle and load it under a name, with its eyes. The same bundle again changes nothing.

        Args:
            name: What requests will call it.
            bundle: Its folder.
            pinned: Never evict its weights.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Not of such an adapter, changed bytes, other bases, template or stop tokens, weights that do
                not fit, or an adapter that changes nothing or sees nothing.
            ModelUnavailable: Its vision base has not been pulled.
            Conflict: The name stands for another bundle.
            ResourceExhausted: Memory has no room for it.
        """
        manifest = read_manifest(bundle)
        if manifest.modality != NAME or manifest.first_layer != self.text.boundary:
            raise IntegrityError(
                f"This engine runs no adapters of {manifest.modality} from layer {manifest.first_layer} up.",
                where=str(bundle),
                remedy=f"It runs those of {NAME} from layer {self.text.boundary} up.",
            )
        new = name not in self.text.adapters
        self.text.load_adapter(name, bundle, pinned)
        try:
            self._shown[name] = self._read(bundle)
        except BaseException:
            if new:
                self.text.unload_adapter(name)
            raise
        return manifest

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Answers it is in the middle of are finished with it.

        Raises:
            NotFound: No adapter of this name is loaded here.
        """
        self._need(name)
        self.text.unload_adapter(name)
        del self._shown[name]

    # -------------------------------------------------------------------------------------------------- answers

    def submit(
        self,
        messages: Sequence[Mapping[str, Any]],
        image: Image.Image,
        *,
        adapter: str,
        sampling: Sampling,
        choices: int = 1,
        flow: str = "",
        asked: float | None = None,
    ) -> list[Row]:
        """Let a question wait for its turn in the text engine; arguments as `TextEngine.submit`.

        Args:
            messages: As `serving.parts.shown` gives them.
            image: In RGB.
            adapter: Name of a loaded adapter.
            sampling: How tokens are chosen.
            choices: Answers made side by side.
            flow: Who asks.
            asked: When.

        Raises:
            NotFound: No adapter of this name is loaded here.
            InvalidRequest: The prompt fills the whole context.
        """
        [seen] = self._look([image], self._need(adapter))
        prompt = self._prompt(messages, adapter, *seen)
        return self.text.enter([prompt], adapters=[adapter], sampling=sampling, choices=choices, flow=flow, asked=asked)

    def generate(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        *,
        adapter: str | None,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
        blind: bool = False,
    ) -> list[Completion]:
        """Answer many questions, in their order.

        Args:
            prompts: Conversations; the last picture in each is what is asked about, as rows or requests name it.
            adapter: Name of a loaded adapter; None is the base, which only the words reach.
            sampling: The same for all.
            progress: Called with the number of answers so far; may raise to stop.
            blind: Show the mean of the training pictures in place of every picture: what the words alone tell.

        Raises:
            NotFound: No adapter of this name is loaded here, or an artifact is gone.
            InvalidRequest: A prompt has no picture, or fills the whole context; `where` says which, counted from 0.
            DataError: A picture is damaged.
        """
        if adapter is None:
            said = [[turn | {"picture": False} for turn in parts.shown(messages)] for messages in prompts]
            return self.text.generate(said, adapter=None, sampling=sampling, progress=progress)
        name = adapter
        own, rows = self._need(name), []
        for at in range(0, len(prompts), MOST):
            chunk = prompts[at : at + MOST]
            images = [_picture(messages, at + n) for n, messages in enumerate(chunk)]
            seen = [(own.projector.mean, "blind")] * len(images) if blind else self._look(images, own)
            for n, (messages, what) in enumerate(zip(chunk, seen, strict=True)):
                prompt = self._prompt(parts.shown(messages), name, *what, index=at + n)
                rows += self.text.enter([prompt], adapters=[name], sampling=sampling)
        self.text.finish(rows, progress)
        return [completion(row) for row in rows]

    def rest(self) -> None:
        """Nobody has asked for a while: let go of what was seen and of computed prompts."""
        self._seen.clear()
        self.text.rest()

    # ------------------------------------------------------------------------------------------------- a request

    def _need(self, name: str) -> _Shown:
        if name not in self._shown:
            raise NotFound(f"No adapter `{name}` that is shown pictures is loaded.", where="model", remedy="Load it.")
        return self._shown[name]

    def _prompt(
        self, messages: Sequence[Mapping[str, Any]], name: str, seen: Tensor, digest: str, index: int = 0
    ) -> Prompt:
        own, base = self._need(name), self.text.base
        ids = prompt_ids(base, messages, self.text.adapters[name].system, index)
        ids, place = spread(ids, own.sight.vectors, base.tokenizer.pad_token_id)
        with torch.inference_mode():
            states = own.projector(seen[None].to(self.text.device))[0]
        return Prompt(require_room(base, ids, index), Inset(place, states, digest))

    def _look(self, images: Sequence[Image.Image], own: _Shown) -> list[tuple[Tensor, str]]:
        """What the adapter's eyes see in each picture, `[vectors, seen]`, and a digest that names it."""
        names = [digest_json([pixel_digest(image), own.sight.transform.digest, own.eyes.digest]) for image in images]
        found = {name: seen for name in names if (seen := self._seen.get(name)) is not None}
        missing = {name: image for name, image in zip(names, images, strict=True) if name not in found}
        for at in range(0, len(missing), MOST):
            chunk = list(missing)[at : at + MOST]
            for name, seen in zip(chunk, _see([missing[name] for name in chunk], own), strict=True):
                found[name] = seen.clone()  # a view would keep the whole batch
                self._seen.put(name, found[name], found[name].nbytes)
        return [(found[name], name) for name in names]

    def _read(self, bundle: Path) -> _Shown:
        sight, projector = read_projector(bundle, self.text.base.config.hidden)
        if sight.base not in self._eyes:
            self._eyes[sight.base] = load_base(sight.base)
        eyes = self._eyes[sight.base]
        if eyes.digest != sight.base_digest:
            raise IntegrityError(
                f"The adapter sees by {sight.base} {sight.base_digest[:12]}, not by {eyes.digest[:12]}.",
                where=str(bundle),
                remedy=f"Pull that base (`moatelier models pull {sight.base}`), or tune the adapter again on this one.",
            )
        own = _Shown(sight, eyes, projector.to(self.text.device))
        _check(own, bundle)
        return own


def _picture(messages: Sequence[Mapping[str, Any]], number: int) -> Image.Image:
    part = parts.last(messages, "image", stored=True)
    if part is None:
        raise InvalidRequest("The prompt has no picture.", where=f"messages of prompt {number}", remedy="Add one.")
    return decode_image(part.data, part.where)


@torch.inference_mode()
def _see(images: Sequence[Image.Image], own: _Shown) -> Tensor:
    eyes = own.eyes
    pixels = torch.stack([to_pixels(image, own.sight.transform) for image in images])
    pixels = pixels.to(eyes.device, DTYPES[eyes.precision])
    return look(eyes, eyes.tower.run_stages(pixels, 0, eyes.tower.before_places))


@torch.inference_mode()
def _check(own: _Shown, bundle: Path) -> None:
    """A projector that takes no such sight, or makes the same of every picture, was not tuned on these eyes."""
    canaries = [Image.new("RGB", (64, 64), colour) for colour in ("white", "navy")]
    seen = _see(canaries, own)
    fits = seen.shape[1:] == own.projector.mean.shape
    states = own.projector(seen.to(own.projector.mean.device)) if fits else seen
    if not fits or not bool(states.isfinite().all()) or torch.equal(states[0], states[1]):
        what = "The adapter's projector tells no picture from another." if fits else "The projector does not fit."
        raise IntegrityError(what, where=str(bundle), remedy="Tune it again.")
