"""One training job: `python -m training.run --spec spec.json` with a TrainSpec in the file.

It reads train and dev rows by the dataset's card (never the locked rows, never the database), and leaves a sealed
bundle in the data directory and a TrainResult in the job's folder. Killed at any moment, it goes on from its last
checkpoint and ends with the same bits. What differs by modality is its objective, see `OBJECTIVES`.
"""

import importlib
import json
import platform
import time
from importlib.metadata import version
from typing import Any

from moatelier.contracts import DatasetCard, SplitName, TrainResult, TrainSpec
from moatelier.errors import DataError
from moatelier.faults import fault_point
from moatelier.job import Job, main
from modalities import catalogue
from modalities.bundle import seal
from store import artifacts, datasets
from training import methods
from training.checkpoint import State
from training.loop import Loop, peak_bytes
from training.objective import Prepared

OBJECTIVES = {
    "text": "training.text",
    "vision": "training.vision",
    "audio": "training.audio",
    "imagetext": "training.imagetext",
    "pretraining": "training.plain",
}
"""Modality, or a kind of task that is learnt in its own way -> the module whose `prepare(spec, card, rows, job)` gives
its `Prepared`; some methods name another."""
_LIBRARIES = ("moatelier", "torch", "transformers", "peft", "accelerate")


def work(spec_fields: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train what the spec says; returns a TrainResult as a dict.

    Raises:
        DataError: The rows cannot be trained on.
        Conflict: The job's folder holds a checkpoint of another spec or of other rows.
        Cancelled: The job was asked to stop; a checkpoint was written if training had begun.
        ResourceExhausted: Time limit or disk used up before there was anything to seal.
    """
    spec = TrainSpec.model_validate(spec_fields)
    card = datasets.get_card(spec.dataset)
    fault_point("train.start")
    rows = {split: read_rows(card, split) for split in ("train", "dev")}
    asked = methods.get(spec.method, card.modality).objective
    module = asked or OBJECTIVES.get(card.kind) or OBJECTIVES[card.modality]
    prepared: Prepared = importlib.import_module(module).prepare(spec, card, rows, job)
    start = State(spec=spec.essence, data=prepared.data, seconds=prepared.seconds)
    loading = time.time() - job.began - prepared.seconds
    try:
        loop = Loop(spec, prepared, getattr(prepared, "train_rows", len(rows["train"])), job, start)
        state, finished = loop.run()
    finally:
        prepared.close()
    paused = finished and state.step < loop.steps
    bundle = seal(prepared.files(), **_fixed(_sealed(spec, paused), card), **prepared.manifest())
    result = _result(state, finished, bundle, loop.epoch_steps, prepared.precision)
    told = {"loading_seconds": round(max(loading, 0.0), 2)} | ({"stopped": "paused"} if paused else {})
    return result.model_copy(update=told).model_dump(mode="json")


def read_rows(card: DatasetCard, split: SplitName) -> list[dict[str, Any]]:
    """The rows of a split, as the data module of their modality wrote them.

    Raises:
        DataError: The card gives no access to this split.
        IntegrityError: The artifact's bytes have changed.
    """
    info = card.splits.get(split)
    if info is None or info.artifact is None:
        if split == "dev" and (info is None or not info.rows):
            return []
        raise DataError(f"The dataset has no readable {split} rows.", where=card.name, remedy="Curate it again.")
    # Bytes: a row's text may hold characters at which text would be split.
    return [json.loads(line) for line in artifacts.get_bytes(info.artifact).split(b"\n") if line]


def _sealed(spec: TrainSpec, paused: bool) -> TrainSpec:
    """The spec as its adapter tells it: one that was paused on its way is the same as one that was not."""
    if spec.until_steps is None and spec.goes_on is None:
        return spec
    until = spec.until_steps if paused else None
    return spec.model_copy(update={"goes_on": None, "until_steps": until, "max_seconds": None})


def _fixed(spec: TrainSpec, card: DatasetCard) -> dict[str, Any]:
    """The manifest's fields that no modality has a say in."""
    return {
        "base": spec.base,
        "modality": card.modality,
        "kind": card.kind,
        "suffix": spec.suffix,
        "labels": card.labels,
        "dataset": spec.dataset,
        "licence": catalogue.get(spec.base).licence,
        "spec": spec,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide what comes out."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def _result(state: State, finished: bool, bundle: str, epoch_steps: int, precision: str) -> TrainResult:
    last = state.curve[-max(1, len(state.curve) // 10) :]
    return TrainResult(
        bundle=bundle,
        steps=state.step,
        epochs=round(state.step / epoch_steps, 3),
        seconds=round(state.seconds, 2),
        train_loss=sum(loss for _, loss in last) / len(last),
        dev_loss=state.dev_curve[-1][1] if state.dev_curve else None,
        curve=state.curve,
        dev_curve=state.dev_curve,
        tokens=state.tokens,
        peak_bytes=peak_bytes(),
        stopped="finished" if finished else "out_of_time",
        precision=precision,
    )


if __name__ == "__main__":
    main("training.run", work)
