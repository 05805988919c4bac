"""Figures of image-language adapters, by an engine that sees what it is told to."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from evals.sighted import card_text, examine
from moatelier.contracts import AdapterManifest, TrainResult, TrainSpec
from moatelier.errors import DataError
from modalities.imagetext.questions import QuestionRow, ask
from modalities.vision.rows import ImageRow

LABELS = ("cat", "dog")


def rows(count: int, start: int = 0) -> list[QuestionRow]:
    pictures = [ImageRow(n + 1, f"{n:064x}", f"{n:064x}", label=LABELS[n % 2]) for n in range(start, start + count)]
    return ask(pictures, LABELS)


class Engine:
    """Sees cats in even pictures, but cannot answer yes or no; blind it says the first thing that it is offered."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def generate(self, prompts: Sequence[Any], *, blind: bool = False, **asked: Any) -> list[Any]:
        self.told.append(asked)
        return [SimpleNamespace(text=f" {self._answer(prompt, blind)}\n") for prompt in prompts]

    def _answer(self, prompt: Any, blind: bool) -> str:
        [picture, words] = prompt[0]["content"]
        if words["text"].startswith("Is this"):
            return "yes"
        if blind:
            return "dog" if "a dog or" in words["text"] else "cat"
        return LABELS[int(picture["artifact"], 16) % 2]


def manifest() -> AdapterManifest:
    spec = TrainSpec(method="llava", base="tiny", vision="eyes", dataset="d" * 64, suffix="animals")
    return AdapterManifest(
        base="tiny",
        base_digest="b" * 64,
        modality="imagetext",
        kind="chat",
        suffix="animals",
        system="",
        template_digest="t" * 64,
        stop_ids=(2,),
        labels=LABELS,
        first_layer=4,
        dataset="d" * 64,
        licence="CC0-1.0",
        spec=spec,
        versions={},
        files={},
    )


def test_what_the_words_alone_tell_is_told_beside_what_is_seen() -> None:
    engine = Engine()
    report = examine(engine, "animals", "e" * 64, rows(80, 100), rows(40))
    assert report.pictures == 80 and {form: one.rows for form, one in report.forms.items()} == {
        "what": 80,
        "whether": 80,
        "which": 80,
    }
    what, whether, which = (report.forms[form] for form in ("what", "whether", "which"))
    assert (what.seeing.point, what.blind.point, what.majority.point) == (1.0, 0.5, 0.5)
    assert (which.seeing.point, which.blind.point) == (1.0, 0.5)
    assert whether.seeing.point == whether.blind.point == 0.5 and whether.against_blind.difference.point == 0
    assert report.sees == ("what", "which")
    assert (report.seeing, report.blind) == (pytest.approx(2.5 / 3), 0.5)
    assert engine.told[0]["adapter"] == "animals" and engine.told[0]["sampling"].greedy


def test_the_card_claims_what_was_shown_and_no_more() -> None:
    report = examine(Engine(), "animals", "e" * 64, rows(80, 100), rows(40))
    result = TrainResult(
        bundle="e" * 64,
        steps=7,
        epochs=0.5,
        seconds=61.4,
        train_loss=1.0,
        dev_loss=None,
        curve=(),
        stopped="out_of_time",
    )
    text = card_text(report, manifest(), result, 40)
    assert "| what | 80 | 100.0% (95.5% to 100.0%) | 50.0% | 50.0% |" in text
    assert "rest on the picture for: what, which" in text and "cat, dog" in text
    assert "40 pictures, 61 s: 7 steps of 16 questions, 0.5 epochs of 3, cut short" in text and "`eyes`" in text
    few = examine(Engine(), "animals", "e" * 64, rows(4, 100), rows(40))
    assert "do not use it" in card_text(few, manifest(), result, 40)
    assert json.loads(report.model_dump_json())["forms"]["what"]["rows"] == 80


def test_pictures_of_the_training_tell_nothing() -> None:
    for asked in ([], rows(4)):
        with pytest.raises(DataError, match="trained on"):
            examine(Engine(), "animals", "e" * 64, asked, rows(40))
