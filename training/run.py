"""One training job: `python -m training.run --spec spec.json` with a TrainSpec in the file.

It reads train and dev rows by the dataset's card (never the locked rows, never the database), and leaves a sealed
bundle in the data directory and a TrainResult in the job's folder. Killed at any moment, it goes on from its last
checkpoint and ends with the same bits. What differs by modality is its objective, see `OBJECTIVES`.
"""

import gc
import importlib
import json
import platform
import time
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from moatelier.contracts import DatasetCard, SplitName, TrainResult, TrainSpec
from moatelier.errors import Cancelled, DataError, InvalidRequest, ResourceExhausted
from moatelier.faults import fault_point
from moatelier.job import Job, main
from moatelier.settings import settings
from modalities import catalogue
from modalities.bundle import seal
from store import artifacts, datasets, frozen
from training import methods, ranks, replay
from training.checkpoint import State, library_majors
from training.loop import Loop, peak_bytes
from training.objective import Prepared
from training.recovery import Diverged, is_out_of_memory

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
        InvalidRequest: The spec cannot be used.
        DataError: The rows cannot be trained on, or the loss is not finite at a ninth of the rate either.
        Conflict: The job's folder holds a checkpoint of another spec, of other rows, of another base or template, or
            of another major version of a library.
        Cancelled: The job was asked to stop; a checkpoint was written if training had begun. Where a person cancelled
            it the best so far is sealed instead, if there is any.
        ResourceExhausted: Time limit, disk or memory used up before there was anything to seal.
    """
    spec = read_spec(spec_fields)
    card = datasets.get_card(spec.dataset)
    fault_point("train.start")
    rows = {split: read_rows(card, split) for split in ("train", "dev")}
    rows["train"] = [*replay.with_replay(spec, card, rows["train"], job)]
    try:
        with frozen.of_dataset(spec.dataset), ranks.others(job, settings().training_processes):
            ranks.Ranks()  # before a model is put on a device: each process has its own
            return _until_done(spec, card, rows, job).model_dump(mode="json")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceExhausted(
            f"Memory ran out: {error}",
            where=spec.base,
            remedy="Tune a smaller base or fewer layers, or free some memory.",
        ) from error


def read_spec(fields: dict[str, Any]) -> TrainSpec:
    """The spec of a job's file.

    Raises:
        InvalidRequest: A field is unknown, missing or out of its bounds; says which.
    """
    try:
        return TrainSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(
            f"The training spec cannot be used: {first['msg']}.",
            where=".".join(str(part) for part in first["loc"]) or "spec",
            remedy="Correct the field.",
        ) from error


def _until_done(spec: TrainSpec, card: DatasetCard, rows: dict[str, list[dict[str, Any]]], job: Job) -> TrainResult:
    while (result := _attempt(spec, card, rows, job)) is None:
        gc.collect()  # the model that diverged
    return result


def _attempt(spec: TrainSpec, card: DatasetCard, rows: dict[str, list[dict[str, Any]]], job: Job) -> TrainResult | None:
    """Train from the last checkpoint to the end; None if it diverged and is to be gone on with from before that."""
    asked = methods.get(spec.method, card.modality).objective
    module = asked or OBJECTIVES.get(card.kind) or OBJECTIVES[card.modality]
    prepared: Prepared = importlib.import_module(module).prepare(spec, card, rows, job)
    loading = time.time() - job.began - prepared.seconds
    try:
        loop = Loop(spec, prepared, getattr(prepared, "train_rows", len(rows["train"])), job, _start(spec, prepared))
        try:
            state, finished = loop.run()
        except Diverged as error:
            loop.go_back(error)
            return None
        except Cancelled:
            best = loop.best() if job.cancelled else None
            if best is None:
                raise
            prepared.restore(best[1])
            state, finished = loop.state.model_copy(update={"step": best[0]}), None
    finally:
        prepared.close()
    paused = bool(finished) and state.step < loop.steps
    fixed = _fixed(_sealed(spec, paused), card)
    # The other processes hold the same weights, and nobody reads what they return.
    bundle = seal(prepared.files(), **fixed, **prepared.manifest()) if job.leads else ""
    result = _result(state, finished, bundle, loop, prepared.precision)
    told = {"loading_seconds": round(max(loading, 0.0), 2)} | ({"stopped": "paused"} if paused else {})
    return result.model_copy(update=told)


def _start(spec: TrainSpec, prepared: Prepared) -> State:
    fixed = prepared.manifest()
    return State(
        spec=spec.essence,
        data=prepared.data,
        base=fixed["base_digest"],
        template=fixed["template_digest"],
        libraries=library_majors(),
        seconds=prepared.seconds,
    )


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


def _result(state: State, finished: bool | None, bundle: str, loop: Loop, precision: str) -> TrainResult:
    last = state.curve[-max(1, len(state.curve) // 10) :]
    dev = [loss for step, loss in state.dev_curve if step <= state.step]
    return TrainResult(
        bundle=bundle,
        steps=state.step,
        epochs=round(state.step / loop.epoch_steps, 3),
        seconds=round(state.seconds, 2),
        train_loss=sum(loss for _, loss in last) / len(last),
        dev_loss=dev[-1] if dev else None,
        curve=state.curve,
        dev_curve=state.dev_curve,
        tokens=state.tokens,
        peak_bytes=peak_bytes(),
        stopped={True: "finished", False: "out_of_time", None: "cancelled"}[finished],
        precision=precision,
        setbacks=loop.setbacks,
    )


if __name__ == "__main__":
    main("training.run", work)
