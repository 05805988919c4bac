"""What the engine's process does beside text: pictures and recordings, each by an engine of their own on its thread.

The engines are imported and loaded at their first use. Requests that come while one is at work are done together, each
with its own adapter.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import zip_longest
from math import log
from pathlib import Path
from typing import Any, TypeVar

from moatelier.contracts import AdapterManifest
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.faults import fault_point
from modalities import catalogue, registry
from modalities.audio.config import RATE
from modalities.bundle import read_manifest
from serving.metrics import MEDIA_ROWS, MEDIA_SECONDS
from serving.parts import Medium, Part
from serving.together import Together

T = TypeVar("T")
ENGINES: Mapping[str, str] = {"vision": "serving.seeing:VisionEngine", "audio": "serving.hearing:AudioEngine"}
MEDIUM: Mapping[str, Medium] = {"vision": "image", "audio": "audio"}
"""Modality -> what its adapters are asked about."""
MOST = 16
"""Requests that are done together."""
LEAST = 1e-12
"""A probability of 0 has no logarithm that JSON could tell."""


@dataclass(frozen=True)
class Told:
    """What an adapter says of a picture or a recording.

    Attributes:
        text: The likeliest label, or the transcript.
        labels: All labels with their probabilities, best first; empty for a transcript.
        transcript: A `modalities.audio.transcribing.Transcript`; None for labels.
    """

    text: str
    labels: tuple[tuple[str, float], ...] = ()
    transcript: Any = None

    @property
    def logprob(self) -> float:
        """Mean natural log probability a token; a label counts as one token."""
        if self.transcript is not None:
            return float(self.transcript.mean_logprob)
        return log(max(self.labels[0][1], LEAST)) if self.labels else 0.0

    @property
    def tokens(self) -> int:
        """How many tokens were decoded."""
        return sum(len(segment.tokens) + 1 for segment in self.transcript.segments) if self.transcript else 1


@dataclass(frozen=True)
class Asked:
    """One question: a decoded medium, who is asked, and how a recording is to be decoded.

    Attributes:
        data: An image, or samples at 16 kHz.
        adapter: Its name on the engine; None is the base.
        options: A `modalities.audio.transcribing.Options`.
        names: Classes to tell from each other by their names; none asks for the labels that were taught.
    """

    data: Any
    adapter: str | None
    options: Any = None
    names: tuple[str, ...] = ()


class Sense:
    """One modality's engine, on a thread.

    Args:
        modality: `vision` or `audio`.
        base: Catalogue id.
        make: Gives the engine; default: the modality's own.
    """

    def __init__(self, modality: str, base: str, make: Callable[[str], Any] | None = None) -> None:
        self.modality, self.base = modality, base
        self._make = make or (lambda named: registry.load(ENGINES[modality])(named))
        self._engine: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=modality)
        self._together = Together(self._answer, self._thread, MOST)

    @property
    def adapters(self) -> Mapping[str, AdapterManifest]:
        """Loaded adapters by name."""
        return dict(self._engine.adapters) if self._engine is not None else {}

    async def call(self, work: Callable[[Any], T]) -> T:
        """Do something with the engine between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._loaded()))

    async def ask(self, asked: Asked) -> Told:
        """One answer, beside those to whatever else is asked meanwhile."""
        return await self._together.ask(asked)

    def _loaded(self) -> Any:
        if self._engine is None:
            self._engine = self._make(self.base)
        return self._engine

    def _answer(self, items: Sequence[Asked]) -> list[Told]:
        fault_point("engine.answering")
        engine = self._loaded()
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            groups[self._company(item)].append(place)
        found: dict[int, Told] = {}
        MEDIA_ROWS.labels(self.modality).observe(len(items))
        for places in groups.values():
            with MEDIA_SECONDS.labels(self.modality).time():
                found |= zip(places, self._told(engine, [items[place] for place in places]), strict=True)
        return [found[place] for place in range(len(items))]

    def _company(self, item: Asked) -> Any:
        """Questions for which this is equal are one call of the engine."""
        if item.names:
            return item.names, item.adapter
        return item.options if self._transcribes(item) else None

    def _told(self, engine: Any, items: Sequence[Asked]) -> list[Told]:
        data, adapters, one = [item.data for item in items], [item.adapter for item in items], items[0]
        if not one.names and self._transcribes(one):
            return [Told(said.text, transcript=said) for said in engine.transcribe(data, adapters, one.options)]
        labelled = engine.zero_shot(data, one.names, one.adapter) if one.names else engine.classify(data, adapters)
        return [Told(labels[0][0], tuple(labels)) for labels in labelled]

    def _transcribes(self, item: Asked) -> bool:
        if self.modality != "audio" or item.adapter is None:
            return self.modality == "audio"
        manifest = self.adapters.get(item.adapter)  # unloaded meanwhile: the engine says so
        return manifest is not None and manifest.kind == "transcription"


class Senses:
    """All engines for pictures and recordings of one process, by base.

    Args:
        make: Modality and base -> a sense; for tests.
    """

    def __init__(self, make: Callable[[str, str], Sense] = Sense) -> None:
        self._make = make
        self._senses: dict[str, Sense] = {}

    @property
    def adapters(self) -> dict[str, AdapterManifest]:
        """Loaded adapters of all engines by name."""
        return {name: manifest for sense in self._senses.values() for name, manifest in sense.adapters.items()}

    async def takes(self, bundle: Path) -> bool:
        """Whether a sealed bundle is of a model for pictures or recordings. Raises NotFound where there is none."""
        return (await asyncio.to_thread(read_manifest, bundle)).modality in ENGINES

    async def load(self, name: str, bundle: Path, pinned: bool = False) -> AdapterManifest:
        """Load a sealed bundle under a name.

        Raises:
            NotFound: There is no bundle in the folder.
            IntegrityError: Changed bytes, another base, or weights that do not fit.
            Conflict: The name stands for another bundle.
        """
        manifest = await asyncio.to_thread(read_manifest, bundle)
        for other in self._senses.values():
            if other.base != manifest.base and name in other.adapters:
                raise Conflict("The name stands for another adapter.", where=name, remedy="Use another name.")
        sense = self.sense(manifest.base)
        return await sense.call(lambda engine: engine.load_adapter(name, bundle, pinned))

    async def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFound: No adapter of this name is loaded here.
        """
        sense, _ = self.found(name)
        await sense.call(lambda engine: engine.unload_adapter(name))

    def sense(self, base: str) -> Sense:
        """The engine of a base.

        Raises:
            NotFound: The catalogue has no such model for pictures or recordings.
        """
        if base not in self._senses:
            kind = catalogue.get(base).kind
            if kind not in ENGINES:
                raise NotFound(f"{base} is no model for pictures or recordings.", where="model")
            self._senses[base] = self._make(kind, base)
        return self._senses[base]

    def found(self, model: str) -> tuple[Sense, str | None]:
        """Whose a model's name is: the engine, and the adapter's name or None for its base.

        Raises:
            NotFound: Nothing of this name is here.
        """
        for sense in self._senses.values():
            if model in sense.adapters:
                return sense, model
        return self.sense(model), None

    def knows(self, model: str) -> bool:
        """Whether a model's name belongs here."""
        try:
            self.found(model)
        except NotFound:
            return False
        return True

    async def ask(self, model: str, part: Part | None, options: Any = None, names: tuple[str, ...] = ()) -> Told:
        """What a model says of a picture or a recording.

        Args:
            model: Its name.
            part: The picture or the recording.
            options: How a recording is to be decoded.
            names: Classes to tell from each other by their names, where pictures and words share a space.

        Raises:
            InvalidRequest: It is asked about nothing, or about the other medium; or it, or its base, has no labels to
                tell, or has been taught others than are asked for.
            NotFound: Nothing of this name is here.
            DataError: The bytes are no such medium.
        """
        sense, asked = await self._asked(model, part, options, names)
        return await sense.ask(asked)

    async def hear(self, model: str, part: Part, options: Any) -> tuple[float, AsyncGenerator[str, None]]:
        """A recording's seconds, and what it says: what each window adds to the text, as soon as it is heard.

        Each window is a question of its own, so that others are answered between two of them, and who closes the
        generator leaves no work but the one that is being heard. What the next may still change comes with the next.

        Raises:
            InvalidRequest: The model tells labels, or is for pictures; or the options do not fit it.
            NotFound: Nothing of this name is here.
            DataError: The bytes are no recording.
        """
        sense, asked = await self._asked(model, part, options)
        pieces = await sense.call(lambda engine: engine.pieces(asked.data, asked.adapter, asked.options))
        return len(asked.data) / RATE, _heard(sense, asked, pieces)

    async def _asked(
        self, model: str, part: Part | None, options: Any, names: tuple[str, ...] = ()
    ) -> tuple[Sense, Asked]:
        """Whom a question is for, and the question; see `ask`."""
        sense, adapter = self.found(model)
        manifest = sense.adapters.get(adapter) if adapter else None
        if manifest and manifest.kind == "retrieval" and not names:
            what = f"`{model}` finds pictures by words: it gives vectors, and answers nothing."
            remedy = "Ask /v1/embeddings for those of texts and pictures, or /v1/classify with `labels`."
            raise InvalidRequest(what, where="model", remedy=remedy)
        if names and (sense.modality != "vision" or (manifest and manifest.kind != "retrieval")):
            what = f"`{model}` does not know things by their names."
            raise InvalidRequest(what, where="labels", remedy="Leave them out, or ask who finds pictures by words.")
        wanted = MEDIUM[sense.modality]
        if part is None or part.medium != wanted:
            form = "an `image_url`" if wanted == "image" else "an `input_audio`"
            what = f"`{model}` is asked about one {wanted}, and the request has none."
            raise InvalidRequest(what, where="messages", remedy=f"Send {form} part with a data URI or base64.")
        data = await asyncio.to_thread(decode, part)
        given = options
        if sense.modality == "audio" and given is None:
            given = import_module("modalities.audio.transcribing").Options()
        return sense, Asked(data, adapter, given, names)


async def _heard(sense: Sense, asked: Asked, pieces: Sequence[Any]) -> AsyncGenerator[str, None]:
    joining, said = import_module("modalities.audio.transcribing").Joining(), 0
    for piece, following in zip_longest(pieces, pieces[1:]):
        told = await sense.ask(replace(asked, data=asked.data[piece.start : piece.stop]))
        joining.add(piece, told.transcript.segments)
        settled = joining.settled(following)
        yield settled[said:]
        said = max(said, len(settled))


def decode(part: Part) -> Any:
    """The image, or the samples at 16 kHz. Raises DataError: see the modality's decoder."""
    if part.medium == "image":
        return import_module("modalities.vision.images").decode_image(part.data, part.where)
    return import_module("modalities.audio.sound").decode_sound(part.data, part.where).samples


def chances(told: Told) -> list[dict[str, Any]]:
    """What is told as log probabilities, as the dialect has them: a label or a transcript counts as one token."""
    return [
        {"token": label, "logprob": log(max(chance, LEAST)), "bytes": list(label.encode())}
        for label, chance in told.labels
    ] or [{"token": told.text, "logprob": told.logprob, "bytes": list(told.text.encode())}]
