"""What a forecast is worth: five trainings of different shapes, each forecast by the probe and then carried out.

Part `forecast` of `benchmarks.training`. Both are processes of their own as a worker starts them, the probe first. The
shapes are short rows by LoRA in the top third, the same in all layers, long rows, an activated LoRA of a higher rank,
and four times the rows in larger batches with a look at dev rows.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from agents.costs import Estimate, Work, estimate
from benchmarks import tuning
from benchmarks.text import read
from moatelier.contracts import AnyColumns, Columns, Sourced, TaskPlan, TrainResult, TrainSpec
from moatelier.settings import settings
from modalities.curating import Material
from modalities.text import curating

Texts = list[tuple[str, str]]
console = Console(stderr=True)


class Shape(NamedTuple):
    """One training: its rows, how many texts are joined into one, and its spec's fields."""

    name: str
    rows: int
    joined: int
    epochs: float
    dev: int
    fields: dict[str, Any]


_LORA = {"method": "lora", "rank": 16, "alpha": 32.0, "layers": "top_third", "batch_rows": 16}
SHAPES = (
    Shape("short rows", 320, 1, 2.0, 32, _LORA),
    Shape("all layers", 96, 1, 2.0, 16, _LORA | {"layers": "all"}),
    Shape("long rows", 24, 34, 2.0, 4, _LORA | {"batch_rows": 4}),
    Shape("activated, rank 64", 240, 2, 2.0, 24, _LORA | {"method": "alora", "rank": 64, "alpha": 128.0}),
    Shape("many rows", 1280, 1, 1.0, 128, _LORA | {"batch_rows": 64}),
)


def errors(folder: Path, here: Path, shapes: tuple[Shape, ...] = SHAPES) -> dict[str, float]:
    """The worst relative error of time and of peak memory over the shapes.

    Args:
        folder: Holds `train.csv`.
        here: For specs and jobs.
        shapes: What is trained.
    """
    texts = [(row["text"], row["category"]) for row in read(folder / "train.csv")][::3]
    found = [_error(texts, shape, here) for shape in shapes]
    return {
        "forecast_time_error": max(time for time, _ in found),
        "forecast_peak_error": max(peak for _, peak in found),
    }


def _error(texts: Texts, shape: Shape, here: Path) -> tuple[float, float]:
    made = _joined(texts, shape)
    rows, dev = tuning.rows_of(made[: shape.rows]), tuning.rows_of(made[shape.rows :])
    lengths = curating.probing(Material(_plan(), rows, None))["lengths"]
    speed = _run("training.probe", {"base": settings().base, "lengths": lengths, **shape.fields}, here)
    told = estimate(speed, Work(rows=len(rows), dev_rows=len(dev), epochs=shape.epochs))
    spec = TrainSpec(
        base=settings().base, dataset=tuning.card_of(rows, dev), suffix="forecast", epochs=shape.epochs, **shape.fields
    )
    return _beside(shape, told, TrainResult.model_validate(_run("training.run", spec.model_dump(mode="json"), here)))


def _beside(shape: Shape, told: Estimate, was: TrainResult) -> tuple[float, float]:
    time, peak = abs(told.seconds / was.seconds - 1), abs(told.peak_bytes / was.peak_bytes - 1)
    console.print(
        f"{shape.name}: {told.seconds:.0f} s told, {was.seconds:.0f} s taken ({time:.0%}); "
        f"{told.peak_bytes / 1e9:.2f} GB told, {was.peak_bytes / 1e9:.2f} GB held ({peak:.0%})"
    )
    return time, peak


def _joined(texts: Texts, shape: Shape) -> Texts:
    """So many texts in a row; of long ones some are longer than others."""
    made: Texts = []
    at = 0
    while len(made) < shape.rows + shape.dev:
        count = 1 if shape.joined == 1 else shape.joined // 2 + len(made) * 7 % shape.joined
        picked = [texts[(at + step) % len(texts)] for step in range(count)]
        made.append((" ".join(text for text, _ in picked), picked[0][1]))
        at += count
    return made


def _plan() -> TaskPlan:
    """As much of a plan as lengths depend on."""

    def given(value: Any) -> dict[str, Any]:
        return {"value": value, "source": "default", "confidence": 1.0, "reason": ""}

    columns: Sourced[AnyColumns] = Sourced(
        value=Columns(input="text", target="category"), source="default", confidence=1.0, reason=""
    )
    return TaskPlan.model_validate(
        {
            "name": "forecast",
            "train_file": "file",
            "modality": given("text"),
            "kind": given("classification"),
            "columns": columns.model_dump(),
            "goal": given({"metric": "accuracy", "target": 0.9}),
            "budget": given({"seconds": 3600, "trials": 1}),
            "method": given("lora"),
            "base": given(settings().base),
            "private": given("allow"),
            "too_long": given("refuse"),
        }
    )


def _run(module: str, spec: dict[str, Any], here: Path) -> dict[str, Any]:
    """A job in a process of its own; its result."""
    folder = here / f"{module}-{len(list(here.iterdir()))}"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", module, "--spec", str(folder / "spec.json"), "--folder", str(folder), "--quiet"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
