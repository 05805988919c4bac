"""Wrong labels among images are found by what a frozen tower sees, and nothing is said of locked rows."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moatelier.contracts import CurationDecision, SplitName
from moatelier.errors import Cancelled
from moatelier.job import Job
from moatelier.settings import settings
from modalities.curating import Material
from modalities.vision import curating, data, doubting
from modalities.vision.duplicates import look_at
from modalities.vision.rows import ImageRow
from store import artifacts
from tests.modalities.vision import towers
from tests.modalities.vision.conftest import Pulled
from tests.modalities.vision.pictures import COLOURS, drawn, encoded

WRONG = {5: "green", 20: "blue", 33: "green", 47: "green", 68: "blue", 79: "red", 92: "green", 101: "blue"}
FRACTIONS: dict[SplitName, float] = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
DECISION = CurationDecision(drop={68: "for another reason"}, fractions=FRACTIONS, reasons=())


@pytest.fixture
def base(pulled: Pulled, tmp_path: Path) -> str:
    return pulled(eyes=(towers.timm_folder(tmp_path / "eyes", "test_efficientnet"), "vision", "hf_vision"))


def rows() -> list[ImageRow]:
    found = []
    for number in range(1, 121):
        label = sorted(COLOURS)[number % 3]
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = Image.blend(Image.fromarray(noise), drawn(label, number, 32), 0.3)
        image = Image.blend(image, Image.new("RGB", image.size, COLOURS[label]), 0.4)
        kept, seen = artifacts.put_bytes(encoded(image)), look_at(image)
        found.append(ImageRow(number, kept, seen.pixels, WRONG.get(number, label), look=seen))
    return found


def asked(base: str, found: list[ImageRow], decision: CurationDecision, test: list[ImageRow] | None) -> Any:
    """What curation finds: the findings, what the job was asked, and the findings after it."""
    plan: Any = SimpleNamespace(seed=0, base=SimpleNamespace(value=base))
    material = Material(plan, found, test)
    findings = curating.find(material, None)
    question = curating.doubts(material, findings, decision)
    told = doubting.work(question, Job(settings().home / "job", quiet=True)) if question else None
    return findings, question, curating.doubt(material, findings, decision, told)


def test_planted_wrong_labels_are_found_whatever_the_order(base: str) -> None:
    made = rows()
    findings, _, found = asked(base, made, DECISION, None)
    locked = {row.number for row in data.split(made, findings, DECISION, 0)["test"]}
    wrong = WRONG.keys() - locked - {68}
    assert len(wrong) >= 5
    suspected = {suspicion.row: suspicion for suspicion in found.suspicious}
    assert len(wrong & suspected.keys()) >= 0.8 * len(wrong) and len(suspected) <= 2 * len(wrong)
    assert not suspected.keys() & (locked | {68}), "nothing may be said of locked rows, and no need to of dropped ones"
    assert all(suspicion.label == made[row - 1].label != suspicion.likelier for row, suspicion in suspected.items())
    assert found.model_copy(update={"suspicious": ()}) == findings
    assert asked(base, made[::-1], DECISION, None)[2].suspicious == found.suspicious


def test_with_a_test_set_of_their_own_all_rows_are_judged(base: str) -> None:
    made = rows()
    test = [replace(row, number=row.number - 90) for row in made[90:]]
    decision = DECISION.model_copy(update={"fractions": {"train": 0.8, "dev": 0.1, "select": 0.1}})
    _, question, found = asked(base, made[:90], decision, test)
    assert len(question["rows"]) == 89
    assert {5, 20} <= {suspicion.row for suspicion in found.suspicious}


def test_of_many_rows_some_are_judged(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curating, "DOUBTED", 50)
    _, question, _ = asked(base, rows(), DECISION, None)
    assert len(question["rows"]) == 50


def test_little_data_accuses_nobody_and_the_work_can_be_stopped(base: str) -> None:
    made = rows()
    findings, question, found = asked(base, made[:24], DECISION, None)
    assert question is None and found == findings

    def stop(done: int, batches: int) -> None:
        raise Cancelled(f"{done} of {batches}")

    with pytest.raises(Cancelled, match="1 of"):
        doubting.suspects(made, base, watch=stop)


def test_a_job_that_is_stopped_between_two_batches_has_told_of_what_its_successor_finds_done(base: str) -> None:
    made = rows()
    plan: Any = SimpleNamespace(seed=0, base=SimpleNamespace(value=base))
    material = Material(plan, made, None)
    question = curating.doubts(material, curating.find(material, None), DECISION)
    assert question is not None
    stopped = Job(settings().home / "job", quiet=True)
    stopped.stop_reason = "its worker is gone"
    with pytest.raises(Cancelled):
        doubting.work(question, stopped)
    doubting.work(question, Job(settings().home / "job", quiet=True))
    events = [json.loads(line) for line in (settings().home / "job" / "events.jsonl").read_text().splitlines()]
    assert {event["step"] for event in events} == set(range(1, events[0]["body"]["batches"] + 1))
