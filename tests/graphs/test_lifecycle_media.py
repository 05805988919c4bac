"""A sentence and a zip of pictures or recordings: the whole way to a registered adapter, with every job's own work.

The jobs run in this process on tiny random models; only the processes around them are left out.
"""

import importlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evals import vault
from graphs import jobs, processes
from moatelier.contracts import DatasetCard, GateDecision, RouterEntry
from moatelier.ids import digest_json
from moatelier.job import Job
from moatelier.settings import settings
from modalities import pull
from modalities.audio import data as audio_data
from modalities.imagetext import data as question_data
from modalities.vision import data as vision_data
from serving.pool import Pool, create_app
from serving.senses import Senses
from store import adapters, artifacts, datasets, records
from tests import media, sentences
from tests.graphs.conftest import Player
from tests.media import packed, scenes, speech
from tests.modalities.packs import catalogue_file
from tests.modalities.vision.pictures import drawn, encoded
from tests.serving.image_adapters import met
from tests.sounding import sound_bytes, tone


class RealJobs:
    """Carries jobs out on the spot."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ran: list[tuple[str, dict[str, Any]]] = []

    def run_job(self, kind: str, spec: dict[str, Any], attempt: int = 0, **_: Any) -> tuple[str, dict[str, Any]]:
        self.ran.append((kind, spec))
        key = f"{kind}-{digest_json([spec, attempt])[:12]}"
        job = Job(self.home / "jobs" / key, quiet=True)
        return key, importlib.import_module(processes.MODULES[kind]).work(spec, job)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.ran]


@pytest.fixture
def working(player: Player, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealJobs:
    """Tiny models of both kinds as the bases of new tasks, and jobs that work."""
    entries = [media.tiny_base(modality, tmp_path / name) for modality, name in media.BASES.items()]
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "media.yaml", *entries)))
    monkeypatch.setenv("MOATELIER_VISION_BASE", "eyes")
    monkeypatch.setenv("MOATELIER_AUDIO_BASE", "ears")
    monkeypatch.setattr("training.probe._SECONDS", 0.05)
    settings.cache_clear()
    real = RealJobs(home)
    monkeypatch.setattr(jobs, "run_job", real.run_job)
    return real


@pytest.fixture
def finding(working: RealJobs, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealJobs:
    """The same, with a tower of words."""
    eyes = {"sources": [{"type": "path", "path": str(tmp_path / "eyes")}], "convert": "hf_vision"}
    folder = sentences.tiny_embedding(tmp_path / "words", media.SPOKEN)
    words = {"sources": [{"type": "path", "path": str(folder)}], "convert": "hf_embedding"}
    entries = [{"id": "eyes", "kind": "vision", **eyes}, {"id": "words", "kind": "embedding", **words}]
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "finding.yaml", *entries)))
    monkeypatch.setenv("MOATELIER_EMBEDDING", "words")
    settings.cache_clear()
    return working


@pytest.fixture
def asking(
    working: RealJobs, home: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> RealJobs:
    """The same, with a language model that the eyes can be put before."""
    entries = [
        {
            "id": "eyes",
            "kind": "vision",
            "sources": [{"type": "path", "path": str(tmp_path / "eyes")}],
            "convert": "hf_vision",
        },
        {"id": "tiny", "context": 512, "sources": [{"type": "path", "path": str(tiny_folder)}]},
    ]
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "asking.yaml", *entries)))
    monkeypatch.setenv("MOATELIER_BASE", "tiny")
    settings.cache_clear()
    return working


def card_of(player: Player) -> DatasetCard:
    [digest] = datasets.list_cards("default")
    return datasets.get_card(digest)


def decided(player: Player) -> GateDecision:
    [digest] = [record.digest for record in adapters.list_adapters("default")]
    return GateDecision.model_validate(records.newest("default", "gate_decision", digest).body)


def test_a_sentence_and_pictures_become_a_registered_adapter(player: Player, working: RealJobs, tmp_path: Path) -> None:
    blank = {"train/red/blank.png": encoded(drawn("red", 0, 40).point(lambda _: 128))}
    file = packed(tmp_path / "shapes.zip", scenes("train/", 24, 0) | scenes("test/", 12, 100) | blank)
    player.say("Sort these pictures by colour, at least 35 % right, a single trial", train=player.upload(file))
    value = player.pending()
    assert value["type"] == "approval" and value["plan"]["modality"]["value"] == "vision"
    assert "73 pictures of shapes.zip" in value["action_requests"][0]["description"]
    assert any("36 pictures of its test part" in note for note in value["plan"]["notes"])
    assert value["forecast"]["train_rows_per_s"] > 0 and value["forecast"]["seconds"] > 0
    player.approve()
    task = player.ended()
    assert task.status == "reached", (task.error, task.result)
    assert working.kinds == ["pull", "probe", "doubt", "train", "evaluate", "evaluate", "gate", "routing"]
    card = card_of(player)
    assert card.modality == "vision" and card.splits["test"].rows == 36 and card.source == card.test_source
    assert "shows one plain colour" in card.report.dropped.values() and card.report.measures["max"] == 40
    record = adapters.get("default", "shapes")
    assert record.base == "eyes" and record.manifest.spec.method == "top_blocks"
    locked = vision_data.parse_rows(vault.open_locked(card.locked))
    kept = [vision_data.parse_rows(artifacts.get_bytes(str(s.artifact))) for s in card.splits.values() if s.artifact]
    assert not {row.pixels for row in locked} & {row.pixels for rows in kept for row in rows}
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "pixels of the shorter side" in page and "Goal reached" in page


def test_a_sentence_and_captions_become_an_adapter_that_finds_pictures(
    player: Player, finding: RealJobs, tmp_path: Path
) -> None:
    file = player.upload(media.album(tmp_path / "album.zip", 180))
    player.say("Find pictures by their descriptions, recall@1 at least 10%, a single trial", train=file)
    value = player.pending()
    plan = value["plan"]
    assert (plan["kind"]["value"], plan["method"]["value"]) == ("retrieval", "contrastive")
    assert plan["columns"]["value"]["caption"] == "caption" and plan["columns"]["value"]["label"] is None
    assert "182 pictures of album.zip until recall_at_1" in value["action_requests"][0]["description"]
    assert any("about" in note and "must be right" in note for note in plan["notes"])
    player.approve()
    task = player.ended()
    assert task.status == "reached", (task.error, task.result)
    assert finding.kinds == ["pull", "pull", "probe", "train", "evaluate", "evaluate", "gate", "routing"]
    card = card_of(player)
    assert card.kind == "retrieval" and card.labels == () and card.report.rows_kept == 181
    record = adapters.get("default", "album")
    assert record.manifest.kind == "retrieval" and record.manifest.spec.method == "contrastive"
    locked = vision_data.parse_rows(vault.open_locked(card.locked))
    kept = [vision_data.parse_rows(artifacts.get_bytes(str(s.artifact))) for s in card.splits.values() if s.artifact]
    assert not {row.pixels for row in locked} & {row.pixels for rows in kept for row in rows}
    assert all(row.caption and row.label is None for row in locked)
    decision = GateDecision.model_validate(records.newest("default", "gate_decision", record.digest).body)
    base, ours = decision.base_report.metrics["recall_at_1"], decision.candidate_report.metrics["recall_at_1"]
    assert base.point == 0 and ours.point > 0.15 and decision.against_base.difference.claim_low > 0
    assert ours.claim_low < ours.point < decision.candidate_report.metrics["recall_at_5"].point
    entry = RouterEntry.model_validate(records.newest("default", "router_profile", record.digest).body)
    assert not entry.joined and "gives vectors" in entry.reason
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "How often what belongs together is found" in page and "sought among 50" in page


def test_the_adapter_that_finds_pictures_answers_over_http_in_one_space(
    finding: RealJobs, home: Path, tiny: str
) -> None:
    for model in ("eyes", "words"):
        pull.pull(model)
    folder = met("eyes", "words", kind="retrieval").folder
    with TestClient(create_app(Pool(tiny, Senses()))) as http:
        loaded = http.post("/v1/load_lora_adapter", json={"lora_name": "album", "lora_path": str(folder)})
        assert loaded.status_code == 200, loaded.text
        picture = f"data:image/png;base64,{b64encode(encoded(media.shown('red', 'left', 1))).decode()}"
        asked = {"model": "album", "input": ["a red thing on the left", picture], "encoding_format": "float"}
        words, image = (np.array(each["embedding"]) for each in http.post("/v1/embeddings", json=asked).json()["data"])
    assert words.shape == image.shape == (16,)
    assert np.linalg.norm(words) == pytest.approx(1, abs=1e-5) == np.linalg.norm(image)


def test_a_sentence_and_pictures_become_a_text_model_that_answers_about_them(
    player: Player, asking: RealJobs, tmp_path: Path
) -> None:
    file = packed(tmp_path / "shapes.zip", scenes("train/", 24, 0) | scenes("test/", 12, 100))
    player.say("Answer questions about these pictures, at least 10 % right, one trial", train=player.upload(file))
    value = player.pending()
    plan = value["plan"]
    assert (plan["modality"]["value"], plan["kind"]["value"]) == ("imagetext", "chat")
    assert (plan["base"]["value"], plan["method"]["value"]) == ("tiny", "llava")
    assert "72 pictures of shapes.zip until exact_match" in value["action_requests"][0]["description"]
    assert value["forecast"]["train_rows_per_s"] > 0
    player.approve()
    task = player.ended()
    assert task.status in ("reached", "not_reached"), (task.error, task.result)
    assert asking.kinds == ["pull", "pull", "probe", "doubt", "train", "evaluate", "evaluate", "gate"]
    card = card_of(player)
    assert (card.modality, card.kind, card.vision) == ("imagetext", "chat", "eyes")
    assert card.splits["test"].rows == 36 and card.splits["train"].rows % 3 == 0
    locked = question_data.parse_rows(vault.open_locked(card.locked))
    kept = [question_data.parse_rows(artifacts.get_bytes(str(s.artifact))) for s in card.splits.values() if s.artifact]
    assert not {row.pixels for row in locked} & {row.pixels for rows in kept for row in rows}
    assert len({row.pixels for row in locked}) == 36 and {row.form for row in locked} == {"what", "whether", "which"}
    record = adapters.get("default", decided(player).candidate)
    assert (record.base, record.manifest.spec.vision) == ("tiny", "eyes")
    assert decided(player).blind_report is not None
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "the words alone" in page and "What is seen is what eyes sees" in page


def test_too_few_pictures_with_captions_are_refused(player: Player, finding: RealJobs, tmp_path: Path) -> None:
    player.say("find pictures by caption, 60 %", train=player.upload(media.album(tmp_path / "few.zip", 60)))
    player.pending()
    player.approve()
    task = player.ended()
    assert task.status == "failed" and task.error is not None and "at least 100 are needed" in task.error["what"]


def test_a_sentence_and_recordings_become_a_gated_adapter(player: Player, working: RealJobs, tmp_path: Path) -> None:
    player.say(
        "Transcribe these, WER at most 50 %, a single trial", train=player.upload(speech(tmp_path / "words.zip"))
    )
    value = player.pending()
    assert value["plan"]["kind"]["value"] == "transcription"
    assert value["plan"]["goal"]["value"] == {"metric": "word_accuracy", "target": 0.5}
    player.approve()
    task = player.ended()
    assert task.status in ("reached", "not_reached") and task.result is not None, task.error
    assert working.kinds[:4] == ["pull", "probe", "doubt", "train"] and working.kinds.count("gate") == 1
    card = card_of(player)
    assert card.window_s == 3.0 and "is silent" in card.report.dropped.values()
    locked = audio_data.parse_rows(vault.open_locked(card.locked))
    trained = audio_data.parse_rows(artifacts.get_bytes(str(card.splits["train"].artifact)))
    assert not {row.speaker for row in locked} & {row.speaker for row in trained}
    assert any("speaks nowhere else" in reason for reason in card.report.reasons)
    record = adapters.get("default", task.result["model"])
    assert record.manifest.spec.window_s == 3.0 and record.manifest.kind == "transcription"
    page = (player.home / "reports" / task.id / "index.html").read_text()
    assert "How it hears each speaker" in page and "Word accuracy" in page


def test_recordings_by_which_two_things_could_be_learnt_are_asked_about(
    player: Player, working: RealJobs, tmp_path: Path
) -> None:
    members = {f"{word}/{take}.wav": sound_bytes(tone(0.5, 300 + take)) for word in ("yes", "no") for take in range(8)}
    file = player.upload(packed(tmp_path / "commands.zip", members))
    player.say("learn these, 80 % right", train=file)
    [question] = player.pending()["questions"]
    assert question["field"] == "kind"
    player.answer("classification")
    value = player.pending()
    assert value["type"] == "approval" and value["plan"]["kind"]["value"] == "classification"
    assert working.kinds == ["pull", "probe"]


def test_a_zip_of_both_is_asked_about_and_read_as_what_was_chosen(
    player: Player, working: RealJobs, tmp_path: Path
) -> None:
    sounds = {f"{word}/{take}.wav": sound_bytes(tone(0.5, 300 + take)) for word in ("a", "b") for take in range(8)}
    file = packed(tmp_path / "both.zip", scenes("", 8, 0) | sounds)
    player.say("at least 80 % right", train=player.upload(file))
    [question] = player.pending()["questions"]
    assert question["field"] == "modality" and "24 pictures and 16 recordings" in question["text"]
    player.answer("the recordings, as classification")
    value = player.pending()
    assert value["plan"]["modality"]["value"] == "audio"
    assert "16 recordings of both.zip" in value["action_requests"][0]["description"]


def test_a_zip_of_nothing_that_can_be_learnt_from_fails_before_anything_is_queued(
    player: Player, working: RealJobs, tmp_path: Path
) -> None:
    player.say("learn this, 90 %", train=player.upload(packed(tmp_path / "a.zip", {"notes.txt": b"x"})))
    task = player.ended()
    assert task.status == "failed" and task.error is not None and "neither pictures" in task.error["what"]
    player.say("learn this, 90 %", train=player.upload(packed(tmp_path / "b.zip", {"c/1.png": b"x", "c/2.png": b"y"})))
    task = player.ended()
    assert task.status == "failed" and task.error is not None and task.error["code"] == "data_error"
    assert working.ran == []
