"""Adapters of pictures and recordings trained straight from real data, without a task around them, and their scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning import untouched
from moatelier.contracts import DatasetCard, SplitInfo, TrainSpec
from moatelier.contracts.columns import AudioColumns, Columns
from moatelier.job import Job
from moatelier.settings import settings
from modalities.audio import data as recordings
from modalities.audio.config import RATE
from modalities.audio.levels import Samples
from modalities.audio.metrics import row_errors, scores
from modalities.audio.rows import AudioRow
from modalities.audio.sound import decode_sound
from modalities.bundle import bundle_folder
from modalities.vision import data as pictures
from modalities.vision.data import open_image
from serving.hearing import AudioEngine
from serving.seeing import VisionEngine
from store import artifacts
from training import methods
from training.run import work

VISION, AUDIO = "efficientnet-lite0", "whisper-tiny.en"
WINDOW_S = 3.0
SEED = 0


@dataclass(frozen=True)
class Trained:
    """An adapter, how well it does on rows that it has not seen, and what it took.

    Attributes:
        bundle: Digest of the sealed bundle.
        right: Whether each test row was answered rightly.
        seconds: Of training, frozen layers run once included.
        wer: Word error rate, by Whisper's usual normaliser; of recordings alone.
    """

    bundle: str
    right: np.ndarray[Any, np.dtype[np.bool_]]
    seconds: float
    wer: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of right rows."""
        return float(self.right.mean())


def card(modality: str, kind: Any, rows: Sequence[Any], dev: Sequence[Any], labels: Sequence[str] = ()) -> str:
    """The digest of a card whose training and dev rows these are; it has no other split."""
    write: Any = pictures.write_rows if modality == "vision" else recordings.write_rows
    made = DatasetCard(
        name="benchmark",
        source="0" * 64,
        test_source=None,
        licence="as given",
        modality=modality,
        kind=kind,
        columns=Columns() if modality == "vision" else AudioColumns(audio="file", text="text", speaker="speaker"),
        labels=tuple(labels),
        splits={
            "train": SplitInfo(rows=len(rows), artifact=artifacts.put_bytes(write(list(rows)))),
            "dev": SplitInfo(rows=len(dev), artifact=artifacts.put_bytes(write(list(dev))) if dev else None),
        },
        locked="0" * 64,
        report=untouched(len(rows)),
    )
    return artifacts.put_json(made)


def train(dataset: str, base: str, method: str, modality: str, name: str, **changes: Any) -> tuple[str, float]:
    """Train by a method's own defaults, but for changes; the sealed bundle's digest and the seconds."""
    defaults: dict[str, Any] = {
        field: int(value) if field in ("rank", "batch_rows") else value
        for field, value in methods.get(method, modality).defaults.items()
    }
    spec = TrainSpec(method=method, base=base, dataset=dataset, suffix=name, **({"seed": SEED} | defaults | changes))
    result = work(spec.model_dump(), Job(settings().home / "jobs" / spec.digest[:32], quiet=True))
    return str(result["bundle"]), float(result["seconds"])


def images(folder: Path, methods_tried: Sequence[str], test_rows: int | None = None) -> dict[str, Trained]:
    """Each method's adapter on `train/<class>`, scored on `test/<class>`."""
    rows = pictures.read_rows(folder, folder.name, part="train")
    test = pictures.read_rows(folder, folder.name, part="test")[:test_rows]
    labels = sorted({str(row.label) for row in rows})
    dataset = card("vision", "classification", rows, [], labels)
    found = {}
    for method in methods_tried:
        bundle, seconds = train(dataset, VISION, method, "vision", method)
        engine = VisionEngine(VISION)
        engine.load_adapter(method, bundle_folder(bundle))
        right = []
        for start in range(0, len(test), 64):
            part = test[start : start + 64]
            told = engine.classify([open_image(row) for row in part], [method] * len(part))
            right += [labels[0][0] == row.label for labels, row in zip(told, part, strict=True)]
        found[method] = Trained(bundle, np.array(right), seconds)
    return found


def digits(folder: Path) -> list[AudioRow]:
    """The spoken digits with their speakers."""
    return recordings.read_rows(folder, folder.name, "transcript")


def sound_of(row: AudioRow) -> Samples:
    """A row's samples."""
    return decode_sound(artifacts.get_bytes(row.audio)).samples


def speakers(rows: Sequence[AudioRow]) -> list[str]:
    """Who speaks."""
    return sorted({str(row.speaker) for row in rows})


def words(rows: Sequence[AudioRow], unheard: str, each: int | None = None) -> Trained:
    """An adapter of all speakers but one, scored on that one: exact words.

    Args:
        rows: All speakers'.
        unheard: Who is left out of training.
        each: So many of the training rows at most.
    """
    known = [row for row in rows if row.speaker != unheard][:each]
    test = [row for row in rows if row.speaker == unheard][:each]
    bundle, seconds = train(
        card("audio", "transcription", known, []),
        AUDIO,
        "audio_lora",
        "audio",
        f"not-{unheard}",
        window_s=WINDOW_S,
        layers="all",
    )
    engine = AudioEngine(AUDIO, "fp32")
    engine.load_adapter("tuned", bundle_folder(bundle))
    said = engine.transcribe([sound_of(row) for row in test], ["tuned"] * len(test))
    errors = [row_errors(str(row.text), one.text) for one, row in zip(said, test, strict=True)]
    right = np.array([each.word_errors == 0 for each in errors])
    return Trained(bundle, right, seconds, scores(errors).wer)


def long_speech(rows: Sequence[AudioRow], seconds: float) -> Samples:
    """Clips one after another with short pauses, as long as that."""
    parts: list[Samples] = []
    total, place = 0, 0
    while total < seconds * RATE:
        clip = sound_of(rows[place % len(rows)])
        parts += [clip, np.zeros(RATE // 4, np.float32)]
        total, place = total + len(clip) + RATE // 4, place + 7
    return np.concatenate(parts)[: int(seconds * RATE)]


def timed(work_once: Any, repeats: int) -> float:
    """Median seconds of some runs after one that warms up."""
    work_once()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work_once()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))
