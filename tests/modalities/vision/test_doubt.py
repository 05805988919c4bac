"""Wrong labels among images are found by what a frozen tower sees, and nothing is said of locked rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moatelier.contracts import CurationDecision, SplitName
from moatelier.errors import Cancelled
from modalities.vision import data
from modalities.vision.doubt import doubt
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


def test_planted_wrong_labels_are_found_whatever_the_order(base: str) -> None:
    made = rows()
    findings = data.find(made)
    locked = {row.number for row in data.split(made, findings, DECISION, 0)["test"]}
    wrong = WRONG.keys() - locked - {68}
    assert len(wrong) >= 5
    found = doubt(made, findings, DECISION, 0, None, base=base)
    suspected = {suspicion.row: suspicion for suspicion in found.suspicious}
    assert len(wrong & suspected.keys()) >= 0.8 * len(wrong) and len(suspected) <= 2 * len(wrong)
    assert not suspected.keys() & (locked | {68}), "nothing may be said of locked rows, and no need to of dropped ones"
    assert all(suspicion.label == made[row - 1].label != suspicion.likelier for row, suspicion in suspected.items())
    assert found.model_copy(update={"suspicious": ()}) == findings
    assert doubt(made[::-1], findings, DECISION, 0, None, base=base) == found


def test_with_a_test_set_of_their_own_all_rows_are_judged(base: str) -> None:
    made = rows()
    test = [replace(row, number=row.number - 90) for row in made[90:]]
    decision = DECISION.model_copy(update={"fractions": {"train": 0.8, "dev": 0.1, "select": 0.1}})
    suspicious = doubt(made[:90], data.find(made[:90]), decision, 0, test, base=base).suspicious
    assert {5, 20} <= {suspicion.row for suspicion in suspicious}


def test_little_data_accuses_nobody_and_the_work_can_be_stopped(base: str) -> None:
    made = rows()
    assert doubt(made[:24], data.find(made[:24]), DECISION, 0, None, base="not pulled").suspicious == ()

    def stop(done: int, batches: int) -> None:
        raise Cancelled(f"{done} of {batches}")

    with pytest.raises(Cancelled, match="1 of"):
        doubt(made, data.find(made), DECISION, 0, None, base=base, watch=stop)
