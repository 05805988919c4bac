"""Evaluation and gate of pictures and recordings, by the very engines that serve them, on tiny random models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals import gate, run, vault
from evals.rows import read_rows
from moatelier.contracts import DatasetCard, EvalReport, GateDecision, SplitInfo, SplitName
from moatelier.errors import ModelUnavailable
from moatelier.job import Job
from modalities.audio import data as audio_data
from modalities.audio.rows import AudioRow
from modalities.vision import data as vision_data
from modalities.vision.rows import ImageRow
from serving.engine import TextEngine
from serving.engines import open_engine
from store import artifacts, records
from tests.modalities.vision.conftest import Pulled, pulled
from tests.modalities.vision.pictures import COLOURS, drawn, encoded
from tests.modalities.vision.towers import timm_folder
from tests.training import spoken
from tests.training.rows import dataset
from tests.training.rows import rows as text_rows
from training import run as training

__all__ = ["pulled"]
Kind = str


def pictures(count: int, start: int) -> list[ImageRow]:
    made = []
    for seed in range(start, start + count):
        label = sorted(COLOURS)[seed % 3]
        image = artifacts.put_bytes(encoded(drawn(label, seed, 40)))
        made.append(ImageRow(seed + 1, image, image, label=label, group=f"camera {seed % 2}"))
    return made


def sounds(kind: Kind) -> Callable[[int, int], list[AudioRow]]:
    def make(count: int, start: int) -> list[AudioRow]:
        return [
            AudioRow(
                row.number,
                row.audio,
                row.samples,
                text=row.text if kind == "transcription" else None,
                label=row.label if kind == "classification" else None,
                speaker=f"speaker {row.number % 2}",
                seconds=row.seconds,
            )
            for row in spoken.rows(count, start)
        ]

    return make


def curated(data: Any, make: Callable[[int, int], Sequence[Any]], **fields: Any) -> DatasetCard:
    """Rows in all four splits, the test rows in the vault, and their card kept."""
    like = DatasetCard.model_validate(artifacts.get_json(dataset(text_rows(3), [])))
    sizes: dict[SplitName, tuple[int, int]] = {"train": (24, 0), "dev": (9, 30), "select": (6, 50), "test": (30, 60)}
    parts = {name: list(make(*size)) for name, size in sizes.items()}
    splits = {
        name: SplitInfo(rows=len(rows), artifact=None if name == "test" else artifacts.put_bytes(data.write_rows(rows)))
        for name, rows in parts.items()
    }
    locked = data.locked_digest(parts["test"])
    vault.lock(data.write_rows(parts["test"]), locked)
    card = like.model_copy(update={"splits": splits, "locked": locked, **fields})
    artifacts.put_json(card)
    return card


def spoken_card(kind: Kind) -> DatasetCard:
    labels = spoken.LABELS if kind == "classification" else ()
    return curated(audio_data, sounds(kind), modality="audio", kind=kind, labels=labels)


def trained(card: DatasetCard, folder: Path, **changes: Any) -> str:
    wanted = spoken.spec(card.digest, **changes)
    return str(training.work(wanted.model_dump(), Job(folder, quiet=True))["bundle"])


def evaluate(card: DatasetCard, base: str, split: str, folder: Path, bundle: str | None = None) -> EvalReport:
    spec = {"dataset": card.digest, "base": base, "bundle": bundle, "split": split}
    return EvalReport.model_validate(run.work(spec, Job(folder, quiet=True)))


def decided(
    card: DatasetCard, base: str, metric: str, folder: Path, bundle: str, champion: str | None = None
) -> GateDecision:
    spec = {"project": "default", "task": "task-1", "dataset": card.digest, "base": base, "candidate": bundle}
    spec |= {"champion": champion, "goal": {"metric": metric, "target": 0.5}}
    decision = GateDecision.model_validate(gate.work(spec, Job(folder, quiet=True)))
    assert records.newest("default", "gate_decision", bundle)
    return decision


def test_pictures_are_told_apart_and_the_base_tells_nothing(pulled: Pulled, home: Path, tmp_path: Path) -> None:
    base = pulled(eyes=(timm_folder(tmp_path / "eyes"), "vision", "hf_vision"))
    labels = tuple(sorted(COLOURS))
    card = curated(vision_data, pictures, modality="vision", kind="classification", labels=labels)
    spec = {"method": "top_blocks", "base": base, "dataset": card.digest, "suffix": "colours", "epochs": 2.0}
    spec |= {"batch_rows": 6, "learning_rate": 1e-3, "rank": 1}
    bundle = training.work(spec, Job(tmp_path / "train", quiet=True))["bundle"]
    dev = evaluate(card, base, "dev", tmp_path / "dev", bundle)
    assert dev.rows == 9 and dev.loss is None and dev.format_error_rate == 0 and set(dev.per_class) <= set(labels)
    lines = [json.loads(line) for line in artifacts.get_bytes(str(dev.predictions)).splitlines()]
    assert all(line["answer"] in labels and line["truth"] in labels for line in lines)
    select = evaluate(card, base, "select", tmp_path / "select", bundle)
    assert select.predictions is None and "macro_f1" in select.metrics
    decision = decided(card, base, "accuracy", tmp_path / "gate", bundle)
    assert decision.candidate_report.rows == 30 and decision.base_report.metrics["accuracy"].point == 0
    assert decision.base_report.format_error_rate == 1 and not (tmp_path / "gate" / "answers").exists()


def test_recordings_are_written_down_and_each_speaker_counted(pulled: Pulled, home: Path, tmp_path: Path) -> None:
    base = spoken.pull_ears(pulled, tmp_path / "ears")
    card = spoken_card("transcription")
    bundle = trained(card, tmp_path / "train", epochs=4.0)
    dev = evaluate(card, base, "dev", tmp_path / "dev", bundle)
    assert dev.kind == "transcription" and "word_accuracy" in dev.metrics and dev.rows == 9 and dev.loss is None
    decision = decided(card, base, "word_accuracy", tmp_path / "gate", bundle)
    speakers = decision.candidate_report.per_class
    assert set(speakers) == {"speaker 0", "speaker 1"} and sum(each["support"] for each in speakers.values()) == 30
    assert {"wer", "cer", "exact_match"} <= decision.candidate_report.metrics.keys()
    assert decision.against_base.difference.method in ("bca", "tango")


def test_labels_of_recordings_and_a_champion_of_other_data(pulled: Pulled, home: Path, tmp_path: Path) -> None:
    base = spoken.pull_ears(pulled, tmp_path / "ears")
    champion = trained(spoken_card("transcription"), tmp_path / "words", epochs=1.0)
    card = spoken_card("classification")
    bundle = trained(card, tmp_path / "labels", epochs=4.0)
    dev = evaluate(card, base, "dev", tmp_path / "dev", bundle)
    assert dev.kind == "classification" and dev.format_error_rate == 0
    decision = decided(card, base, "accuracy", tmp_path / "gate", bundle, champion=champion)
    assert decision.base_report.metrics["accuracy"].point == 0 and decision.candidate_report.rows == 30
    assert decision.champion_report is None and decision.against_champion is None


def test_rows_of_each_kind_are_asked_about_by_their_artifact() -> None:
    [picture] = read_rows(vision_data.write_rows([ImageRow(1, "a" * 64, "b" * 64, label="cat", group="g")]))
    assert picture.prompt == ({"role": "user", "content": [{"type": "image", "artifact": "a" * 64}]},)
    assert (picture.truth, picture.group) == ("cat", "g")
    told = AudioRow(1, "a" * 64, "b" * 64, text="hello", speaker="ann", source="call 1")
    [said] = read_rows(audio_data.write_rows([told]))
    assert said.prompt[0]["content"] == [{"type": "audio", "artifact": "a" * 64}]
    assert (said.truth, said.group) == ("hello", "ann")
    [kind] = read_rows(audio_data.write_rows([AudioRow(1, "a" * 64, "b" * 64, label="yes")]))
    assert kind.prompt[0]["content"] == [{"type": "audio", "artifact": "a" * 64, "goal": "label"}]
    assert (kind.truth, kind.group) == ("yes", None)


def test_an_engine_is_chosen_by_what_the_base_is_for(tiny: str) -> None:
    assert isinstance(open_engine(tiny), TextEngine)
    with pytest.raises(ModelUnavailable, match="embedding, which answers nothing"):
        open_engine("all-minilm-l6-v2")
