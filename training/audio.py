"""An audio adapter's objective: Whisper taught words or classes, above what its frozen blocks make of each clip once.

With nothing frozen the recordings may be varied: other speeds, noise, masks, drawn from torch's generator, whose state
checkpoints hold.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from moatelier.contracts import DatasetCard, TrainSpec
from moatelier.errors import InvalidRequest
from moatelier.ids import canonical_json, digest_json
from moatelier.job import Job
from modalities.audio import data
from modalities.audio.augment import Policy, mask_spectrum, vary
from modalities.audio.config import (
    LANGUAGE,
    LONGEST_WINDOW_S,
    PLACE,
    RATE,
    WINDOW,
    AudioConfig,
    Place,
    positions,
    samples,
)
from modalities.audio.levels import Samples
from modalities.audio.model import AudioBase, features, load_base
from modalities.audio.rows import AudioRow
from modalities.audio.states import EncoderStates
from modalities.audio.teaching import fitted
from modalities.audio.transcribing import detect_language
from modalities.bundle import CONFIG, WEIGHTS
from modalities.machine import DTYPES
from training import methods
from training.filling import fill_progress
from training.telling import Classes, Telling, Words

_MOST_CLIPS = 32
_MICRO_BYTES = 2 * 10**9
_TENSORS = 20
"""Activations of a block that are kept for the way back, each of a float for each position and each of its width."""
_SPOKEN_BY = 8
"""Recordings by which the base tells the language of all."""


def prepare(
    spec: TrainSpec, card: DatasetCard, rows: Mapping[str, Sequence[dict[str, Any]]], job: Job
) -> "AudioObjective":
    """Everything up to the first step: recordings heard once, frozen blocks run, the adapter attached.

    Raises:
        DataError: A recording is damaged, silent or longer than the window, or a row cannot be taught.
        InvalidRequest: Method, window, place or augmentation do not fit the base, the kind or each other.
        Cancelled: The job was asked to stop.
        ResourceExhausted: The time limit was used up before the first step.
    """
    base = load_base(spec.base, spec.precision)
    train, dev = (data.rows_of(rows[split]) for split in ("train", "dev"))
    return AudioObjective(spec, base, card, [*train, *dev], job)


class AudioObjective:
    """See `training.objective.Prepared`.

    Args:
        spec: What to do.
        base: Loaded; it gets the adapter.
        card: Gives kind and labels.
        rows: Training rows, then dev rows.
        job: Told of progress; asked whether to stop.
    """

    solved = False

    def __init__(self, spec: TrainSpec, base: AudioBase, card: DatasetCard, rows: Sequence[AudioRow], job: Job) -> None:
        began = time.monotonic()
        self._spec, self._rows = spec, rows
        self._base = base.with_window(spec.window_s or LONGEST_WINDOW_S)
        self._method = methods.load(spec, "audio")
        self._place = _place(spec, card)
        self._first = _first_layer(spec, self._place, base.config)
        self._samples = self._hear(job)
        self._language = self._spoken() if card.kind == "transcription" else None
        self._telling: Telling = (
            Words(self._base, rows, self._language)
            if card.kind == "transcription"
            else Classes(self._base, rows, card.labels)
        )
        self._states = EncoderStates(
            self._base,
            [row.samples for row in rows],
            self._open,
            self._first,
            progress=fill_progress(spec, job, began),
        )
        self.model = self._method.attach(self._telling.model, spec, self._first, shape=base.config, place=self._place)
        torch.manual_seed(spec.seed)  # of what the loss draws
        self.sizes = [1] * len(rows)
        self.units = self._telling.units
        self.micro = _micro(self._base)
        self.data = digest_json([[row.samples, told] for row, told in zip(rows, self._telling.content, strict=True)])
        self.precision = base.precision
        self.seconds = time.monotonic() - began

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The rows' losses summed: over trained tokens, or one a row."""
        if self._spec.augment and self.model.training:
            x, lengths = self._varied(rows)
        else:
            x, lengths = self._states.read(rows), [self._samples[row] for row in rows]
        return self._telling.loss(x, torch.tensor(lengths), rows, self._first)

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors, named as PEFT saves them."""
        weights: dict[str, Tensor] = self._method.weights(self.model)
        return weights

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Put them back."""
        self._method.restore(self.model, weights)

    def files(self) -> dict[str, bytes]:
        """The bundle's files, in PEFT's format; the configuration says what is heard and what is tuned."""
        config = json.loads(self._method.config(self.model, self._spec.base))
        told = config | {WINDOW: self._base.window_s, PLACE: self._place}
        if self._language is not None:
            told[LANGUAGE] = self._language
        weights = save(self.weights(), metadata={"format": "pt"})
        return {CONFIG: canonical_json(told), WEIGHTS: bytes(weights)}

    def manifest(self) -> dict[str, Any]:
        """What the base and the rows fix."""
        return {
            "base_digest": self._base.digest,
            "system": "",
            "template_digest": self._base.template_digest,
            "stop_ids": (),
            "first_layer": self._first,
        }

    def close(self) -> None:
        """Let go of the frozen blocks' cache."""
        self._states.close()

    def _open(self, row: int) -> Samples:
        """A row's recording, as it is heard in the window."""
        return fitted(data.open_sound(self._rows[row]).samples, self._base.window_s, self._rows[row].place)

    def _hear(self, job: Job) -> list[int]:
        """How many samples each row has; every recording is heard once before anything is trained."""
        found = []
        for row in range(len(self._rows)):
            job.check()
            found.append(len(self._open(row)))
        return found

    def _spoken(self) -> str | None:
        """The language that most of a few recordings are in, by the base's ear; None where it knows one alone."""
        if not self._base.config.multilingual:
            return None
        whole = self._base.with_window(LONGEST_WINDOW_S)
        step = max(1, len(self._rows) // _SPOKEN_BY)
        clips = [self._open(row) for row in range(0, len(self._rows), step)]
        told = Counter(language for language, _ in detect_language(whole, clips[:_SPOKEN_BY]))
        return min(told, key=lambda language: (-told[language], language))

    def _varied(self, rows: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Spectrograms of the rows as they might have been said as well, and their samples."""
        policy, size = Policy(), samples(self._base.window_s)
        seeds = torch.randint(2**62, (len(rows),)).tolist()
        clips = []
        for row, seed in zip(rows, seeds, strict=True):
            clip = vary(self._open(row), seed, policy)
            if len(clip) > size:  # said more slowly it does not fit
                clip = vary(self._open(row), seed, replace(policy, speeds=(1.0,)))
            clips.append(clip)
        frames = RATE // 100
        mels = [
            mask_spectrum(mel, seed, policy, len(clip) // frames)
            for mel, seed, clip in zip(features(clips, self._base), seeds, clips, strict=True)
        ]
        return torch.stack(mels).to(DTYPES[self._base.precision]), [len(clip) for clip in clips]


def _place(spec: TrainSpec, card: DatasetCard) -> Place:
    if card.kind == "transcription":
        return spec.place or "both"
    if spec.place not in (None, "encoder"):
        raise InvalidRequest(
            f"Classes are told by the encoder, so that to tune {spec.place} has no sense.",
            where="place",
            remedy="Use `encoder`, or leave it out.",
        )
    return "encoder"


def _first_layer(spec: TrainSpec, place: Place, config: AudioConfig) -> int:
    """The boundary of the encoder below which everything is frozen."""
    first = config.first_layer_default if spec.layers == "top_third" else 0
    first = config.n_audio_layer if place == "decoder" else first
    if spec.augment and first:
        raise InvalidRequest(
            "Recordings that frozen blocks have heard once cannot be varied.",
            where="augment",
            remedy="Tune all layers of the encoder, or do without.",
        )
    return first


def _micro(base: AudioBase) -> int:
    """How many clips go through the model at once: what bounds the memory of activations."""
    config = base.config
    clip = positions(base.window_s) * config.n_audio_state * config.n_audio_layer * _TENSORS * 4
    return max(1, min(_MOST_CLIPS, _MICRO_BYTES // clip))
