"""A small curated dataset of tones and a spec for the tiny Whisper, as curation would leave them."""

from pathlib import Path
from typing import Any

from moatelier.contracts import AudioColumns, DatasetCard, SplitInfo, TrainSpec
from modalities.audio import data
from modalities.audio.rows import AudioRow
from store import artifacts
from tests.modalities.vision.conftest import Pulled
from tests.sounding import ctranslate2_bytes, sound_bytes, tiny_whisper, tone
from tests.training.rows import dataset
from tests.training.rows import rows as text_rows

HERTZ = {"red": 200.0, "green": 500.0, "blue": 1100.0}
"""What is said, by the tone that says it."""
WORDS = tuple(HERTZ)
LABELS = tuple(sorted(HERTZ))


def pull_ears(pulled: Pulled, folder: Path, seed: int = 0, **dims: int) -> str:
    """Pull the tiny Whisper as the base `ears`."""
    folder.mkdir()
    (folder / "model.bin").write_bytes(ctranslate2_bytes(tiny_whisper(seed, **dims)))
    (folder / "config.json").write_text("{}")
    return pulled(ears=(folder, "audio", "ctranslate2_whisper"))


def rows(count: int, start: int = 0, seconds: float = 0.6) -> list[AudioRow]:
    """`count` recordings, each of its own length, with text and label."""
    made = []
    for number in range(start, start + count):
        word = WORDS[number % 3]
        sound = sound_bytes(tone(seconds + number % 7 / 100, HERTZ[word] + number))
        audio = artifacts.put_bytes(sound)
        made.append(AudioRow(number + 1, audio, audio, text=word, label=word, seconds=seconds))
    return made


def card(train: list[AudioRow], dev: list[AudioRow], kind: str = "transcription") -> str:
    """The digest of a card with these rows."""
    like = DatasetCard.model_validate(artifacts.get_json(dataset(text_rows(3), [])))
    splits = {
        name: SplitInfo(rows=len(split), artifact=artifacts.put_bytes(data.write_rows(split)))
        for name, split in (("train", train), ("dev", dev))
    }
    fields = {
        "modality": "audio",
        "kind": kind,
        "labels": LABELS if kind == "classification" else (),
        "splits": splits,
        "columns": AudioColumns(audio="file", text="word", label="word"),
    }
    return artifacts.put_json(like.model_copy(update=fields))


def spec(digest: str, **changes: Any) -> TrainSpec:
    """A short training of the tiny Whisper in a window of a second: 2 steps an epoch of 12 rows."""
    fields = {"method": "audio_lora", "base": "ears", "dataset": digest, "suffix": "words", "epochs": 3.0}
    fields |= {"batch_rows": 6, "checkpoint_every": 2, "learning_rate": 0.02, "rank": 4, "alpha": 8.0}
    fields |= {"layers": "all", "window_s": 1.0, "precision": "fp32"}
    return TrainSpec.model_validate(fields | changes)
