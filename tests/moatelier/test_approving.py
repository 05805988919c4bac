"""How a plan that does not fit looks on a terminal, and what `--yes` makes of it."""

import json
from typing import Any

import pytest

from moatelier import journey
from moatelier.errors import ResourceExhausted
from moatelier.show import SHOWN, console

ITEM = {"value": "x", "source": "default", "reason": ""}
BASE = {"licence": "MIT", "parameters": 9_000_000, "context": 512, "zero_shot": 0.7, "loss": 0.81, "rows": 64}
LINES = [
    {"base": "other", **BASE, "seconds": 240.0, "peak_bytes": 2 * 10**9, "place": 1, "refused": ""},
    {"base": "own", **BASE, "zero_shot": None, "loss": None, "seconds": None, "peak_bytes": None, "place": None}
    | {"refused": "its licence MIT is not allowed here"},
]


def option(change: str, seconds: float) -> dict[str, Any]:
    takes = {"seconds": seconds, "frozen_seconds": 1, "epoch_seconds": 1, "peak_bytes": 10**9, "cost": 0.05}
    return {"change": change, "limits": {"epochs": 1, "rows": None, "tokens": None}, "estimate": takes}


def value(fits: bool) -> dict[str, Any]:
    forecast = {"seconds": 900.0, "train_rows_per_s": 4.0, "peak_bytes": 3 * 10**9, "cost": 0.25, "bases": LINES}
    forecast["cheaper"] = [] if fits else [option("1 of 3 epochs", 300), option("9 of 30 rows", 280)]
    error = ResourceExhausted("It takes 15 min.", where="budget", remedy="Choose by number.")
    return {
        "type": "approval",
        "task": "task-1",
        "version": "v",
        "plan": {"name": "desk", "notes": [], "limits": {"epochs": None, "rows": 20, "tokens": None}}
        | dict.fromkeys(SHOWN, ITEM)
        | {"search": ITEM | {"value": {"by": "grid", "space": {"rank": [4, 8]}}}},
        "forecast": forecast,
        "refused": None if fits else error.to_dict(),
        "action_requests": [{"description": "Tune it."}],
    }


def test_the_forecast_its_cheaper_trials_and_the_bases_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(journey, "_prompt", lambda label, *_: asked.append(label) or "2")
    monkeypatch.setattr(console, "width", 160)
    with console.capture() as seen:
        said = journey._approval(value(fits=False), yes=False, as_json=False)
    shown = seen.get()
    assert said == "2" and "number" in asked[0]
    for part in ("15.0 min", "3.0 GB", "costs 0.25", "1 1 of 3 epochs: 5.0 min, 1.0 GB, costs 0.05", "2 9 of 30 rows"):
        assert part in shown
    for part in (
        "It takes 15 min.",
        "Choose by number.",
        "at most 20 rows",
        "0.810",
        "9 M",
        "not allowed here",
        "rank 4, 8",
    ):
        assert part in shown


def test_yes_does_not_approve_what_would_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        with pytest.raises(ResourceExhausted) as caught:
            journey._approval(value(fits=False), yes=True, as_json=as_json)
        assert caught.value.where == "budget" and caught.value.remedy
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["forecast"]["cheaper"]
    assert journey._approval(value(fits=True), yes=True, as_json=True)["decisions"] == [{"type": "approve"}]
