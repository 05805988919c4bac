"""Recordings in curation: what the base is asked and tells, and what is said of the voices in the test."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.curator import decide
from moatelier.errors import Cancelled, InvalidRequest
from moatelier.job import Job
from modalities import doubting
from modalities.audio import curating
from modalities.audio.rows import AudioRow, Hearing
from modalities.curating import Material
from store import artifacts
from tests.agents.media_scenes import BOTH, DIGITS, planned
from tests.modalities.vision.conftest import Pulled, pulled
from tests.sounding import sound_bytes, tone
from tests.training.spoken import pull_ears

__all__ = ["pulled"]
PLAN = planned("95 %", data=DIGITS)


def row(number: int, text: str | None = "red", speaker: str | None = None, seconds: float = 1.0) -> AudioRow:
    return AudioRow(
        number,
        f"{number:064x}",
        f"{number:064x}",
        text=text,
        speaker=speaker,
        seconds=seconds,
        hearing=Hearing(seconds, seconds, 16_000, 1, 0.0, False),
    )


def test_the_base_is_asked_about_so_many_seconds_and_all_texts() -> None:
    rows = [row(n, text=f"word {n}") for n in range(1, 2001)] + [row(2001, text=None)]
    asked = curating.questions(Material(PLAN, rows, None))
    assert asked is not None and asked["window_s"] == 3.0 and len(asked["texts"]) == 2000
    assert len(asked["rows"]) * 3.0 == pytest.approx(curating.HEARD_S, rel=0.01)
    assert [number for number, _, _ in asked["rows"]][:3] == [1, 3, 5]
    assert curating.questions(Material(PLAN, [replace(one, text=None, label="a") for one in rows], None)) is None


def test_what_the_base_tells_becomes_findings() -> None:
    rows = [row(n, text=f"word {n}", speaker="ann") for n in range(1, 21)]
    told = {
        "tokens": {f"word {n}": 500 if n == 3 else 2 for n in range(1, 21)},
        "likelihoods": [[n, -9.0 if n == 5 else -1.0 - n / 100] for n in range(1, 16)],
    }
    found = curating.find(Material(PLAN, rows, None), told)
    assert found.too_long == (3,) and found.mismatched == (5,) and found.window_s == 3.0


def test_the_job_tells_tokens_and_likelihoods_and_can_be_stopped(pulled: Pulled, home: Path, tmp_path: Path) -> None:
    base = pull_ears(pulled, tmp_path / "ears")
    audio = artifacts.put_bytes(sound_bytes(tone(0.5)))
    spec: dict[str, Any] = {"modality": "audio", "base": base, "window_s": 1.0, "texts": ["red", "a long way"]}
    spec["rows"] = [[1, audio, "red"], [2, audio, "a long way"]]
    told = doubting.work(spec, Job(tmp_path / "job", quiet=True))
    assert told["tokens"]["red"] == 1 and told["tokens"]["a long way"] == 3
    assert [number for number, _ in told["likelihoods"]] == [1, 2]
    assert all(likelihood < 0 for _, likelihood in told["likelihoods"])
    stopped = Job(tmp_path / "stopped", quiet=True)
    stopped.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        doubting.work(spec, stopped)
    with pytest.raises(InvalidRequest):
        doubting.work({"modality": "text"}, stopped)


@pytest.mark.parametrize(
    ("speakers", "told"),
    [
        (["ann", "bob"], "speaks nowhere else"),
        ([f"s{n}" for n in range(20)], "speakers of its own"),
        (["ann"], "too few speakers"),
        ([None], "Nothing says who speaks"),
    ],
)
def test_it_is_told_whether_the_test_has_voices_of_its_own(speakers: list[str | None], told: str) -> None:
    rows = [row(n, text=f"word {n}", speaker=speakers[n % len(speakers)]) for n in range(1, 61)]
    material = Material(PLAN, rows, None)
    findings = curating.find(material, None)
    decision = decide(findings, PLAN, False, {})
    splits = curating.split(material, findings, decision)
    report = curating.report(material, findings, decision, splits["train"])
    assert told in report.reasons[-1] and report.measures == {"min": 1, "p50": 1, "p95": 1, "max": 1}
    assert curating.card_fields(material, findings) == {"window_s": 3.0}


def test_a_test_set_of_its_own_may_have_known_voices() -> None:
    rows = [row(n, text=f"word {n}", speaker="ann" if n % 2 else "bob") for n in range(1, 61)]
    for speaker, told in (("ann", "1 of the 1 speakers"), ("cid", "Nobody in the locked test speaks")):
        test = [row(n, text=f"word {n}", speaker=speaker) for n in range(100, 110)]
        material = Material(PLAN, rows, test)
        findings = curating.find(material, None)
        decision = decide(findings, PLAN, True, {})
        splits = curating.split(material, findings, decision)
        assert told in curating.report(material, findings, decision, splits["train"]).reasons[-1]


def test_the_probe_hears_the_window_of_the_rows() -> None:
    rows = [row(n, seconds=7.1) for n in range(1, 5)]
    assert curating.probing(Material(PLAN, rows, None)) == {"window_s": 7.5, "kind": "transcription"}
    labels = planned("intent, 90 %", "classification", data=BOTH)
    assert curating.probing(Material(labels, rows, None))["kind"] == "classification"
