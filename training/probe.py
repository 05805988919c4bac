"""How fast this machine tunes a base: `python -m training.probe --spec spec.json` with {"base": id} and what is learnt.

Forecasts rest on it. Of texts it knows the lengths and the method, and takes twenty steps (training/tryout.py). For
images the spec may name a `size`, for recordings a `window_s` and the `kind`, for questions about pictures the `vision`
base. What was measured once is kept in `<home>/probe-<base digest8>-<what was told>.json`.
"""

import json
from pathlib import Path
from typing import Any

import torch

from moatelier.contracts import TrainSpec
from moatelier.errors import ResourceExhausted
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from moatelier.job import Job, main, write_atomically
from moatelier.memory import available_bytes, gigabytes
from moatelier.settings import settings
from modalities import catalogue
from modalities.imagetext.questions import FORMS
from modalities.text.model import load_base
from training import paces, tryout
from training.activations import keep_few_kernels
from training.loop import peak_bytes

_SHORT = {"rows": [[48, 6]], "shared": 0}
"""Taken for texts of which nothing is told: short rows that share no beginning, so that it errs on the slow side."""
_ASKED = {"rows": [[24, 2]], "shared": 0}
"""A question about a picture with its answer, besides what all questions share."""
_SECONDS = 2.0
_TOLD = ("size", "window_s", "kind", "vision", "lengths", "method", "layers", "rank", "alpha", "batch_rows")


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure the base, or tell what was measured before.

    Returns:
        `frozen_rows_per_s` (what is done once for each row), `train_rows_per_s`, `peak_bytes` of this process,
        `precision`, and more; see `training.tryout` and `training.paces`. On a GPU `device_bytes`, all it has.

    Raises:
        ModelUnavailable: The base is not pulled.
        InvalidRequest: It takes no such size or window.
        ResourceExhausted: Its weights or the longest row do not fit into memory.
    """
    file = probe_file(spec["base"], {name: spec[name] for name in _TOLD if spec.get(name)})
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    job.check()
    keep_few_kernels()
    _need_room(spec["base"])
    kind = catalogue.get(spec["base"]).kind
    if spec.get("vision"):
        measured = _questions(spec, job)
    elif spec.get("kind") == "retrieval":
        measured = paces.pairs(spec["base"], spec.get("size"), _SECONDS)
    elif kind == "vision":
        measured = paces.images(spec["base"], spec.get("size"), _SECONDS)
    elif kind == "audio":
        told = str(spec.get("kind") or "transcription")
        measured = paces.recordings(spec["base"], spec.get("window_s"), told, _SECONDS)
    else:
        measured = _texts(spec, spec.get("lengths", _SHORT), job)
    measured = {"peak_bytes": peak_bytes()} | measured
    if torch.cuda.is_available():
        measured["device_bytes"] = torch.cuda.get_device_properties(0).total_memory
    job.emit("probe", 0, **measured)  # before the file: whoever finds that says nothing
    fault_point("probe.measured")
    write_atomically(file, json.dumps(measured).encode())
    return measured


def probe_file(base_id: str, told: dict[str, Any] | None = None) -> Path:
    """Where the base's figures are kept; those for a size or a window apart."""
    more = f"-{digest_json(told)[:8]}" if told else ""
    return settings().home / f"probe-{catalogue.base_digest(base_id)[:8]}{more}.json"


def _need_room(base_id: str) -> None:
    """Refuse a base whose weights alone do not fit, before it is loaded and the system kills what it finds."""
    weights = 4 * (catalogue.get(base_id).parameters or 0)
    free = available_bytes()
    if weights > free and not torch.cuda.is_available():
        raise ResourceExhausted(
            f"The weights of {base_id} take {gigabytes(weights)}; {gigabytes(free)} are free.",
            where="memory",
            remedy="Free some memory, or use a smaller base.",
        )


def _texts(spec: dict[str, Any], lengths: dict[str, Any], job: Job) -> dict[str, Any]:
    base = load_base(spec["base"])
    told = {name: spec[name] for name in ("method", "layers", "rank", "alpha", "batch_rows") if name in spec}
    tried = TrainSpec.model_validate(
        {"method": "lora", "base": base.entry_id, "dataset": "", "suffix": "probe", "checkpoint_every": 1000} | told
    )
    return {"precision": base.precision} | tryout.texts(base, tried, lengths, job)


def _questions(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Rates of questions about pictures, of which each is seen once, and its mirror image, for three questions."""
    rates = _texts({"base": spec["base"]}, _ASKED, job)
    seen = paces.sights(spec["vision"], spec.get("size"), _SECONDS) * len(FORMS) / 2
    frozen = round(1 / (1 / rates["frozen_rows_per_s"] + 1 / seen), 1)
    return rates | {"frozen_rows_per_s": frozen, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    main("training.probe", work)
