"""How fast this machine tunes a base: `python -m training.probe --spec spec.json` with {"base": id} and what is to be learnt.

Forecasts rest on it. Of texts it knows the lengths and the method, and takes twenty steps (training/tryout.py). For images
the spec may name a `size`, for recordings a `window_s` and the `kind`, for questions about pictures the `vision` base. What
was measured once is kept in `<home>/probe-<base digest8>-<what was told>.json`.
"""

import json
from pathlib import Path
from typing import Any

from moatelier.contracts import TrainSpec
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from moatelier.job import Job, main, write_atomically
from moatelier.settings import settings
from modalities import catalogue
from modalities.imagetext.questions import FORMS
from modalities.text.model import load_base
from training import paces, tryout
from training.loop import peak_bytes

_ASKED_TOKENS, _ASKED_TRAINED = 24, 2
"""Of a question about a picture with its answer, besides what all questions share."""
_SECONDS = 2.0
_TOLD = ("size", "window_s", "kind", "vision", "lengths", "method", "layers", "rank", "batch_rows")


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure the base, or tell what was measured before.

    Returns:
        `frozen_rows_per_s` (what is done once for each row), `train_rows_per_s`, `precision` and, of texts,
        `peak_bytes`; see `training.tryout` and `training.paces`.

    Raises:
        ModelUnavailable: The base is not pulled.
        InvalidRequest: It takes no such size or window.
    """
    file = probe_file(spec["base"], {name: spec[name] for name in _TOLD if spec.get(name)})
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    job.check()
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
        measured = _texts(spec, job)
    job.emit("probe", 0, **measured)  # before the file: whoever finds that says nothing
    fault_point("probe.measured")
    write_atomically(file, json.dumps(measured).encode())
    return measured


def probe_file(base_id: str, told: dict[str, Any] | None = None) -> Path:
    """Where the base's figures are kept; those for a size or a window apart."""
    more = f"-{digest_json(told)[:8]}" if told else ""
    return settings().home / f"probe-{catalogue.base_digest(base_id)[:8]}{more}.json"


def _texts(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    base = load_base(spec["base"])
    told = {name: spec[name] for name in ("method", "layers", "rank", "batch_rows")}
    tried = TrainSpec(base=base.entry_id, dataset="", suffix="probe", epochs=1.0, checkpoint_every=1000, **told)
    return {"precision": base.precision} | tryout.texts(base, tried, spec["lengths"], job)


def _questions(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Rates of questions about pictures, of which each is seen once, and its mirror image, for three questions."""
    rates = _texts(spec, job)
    seen = paces.sights(spec["vision"], spec.get("size"), _SECONDS) * len(FORMS) / 2
    frozen = round(1 / (1 / rates["frozen_rows_per_s"] + 1 / seen), 1)
    return rates | {"frozen_rows_per_s": frozen, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    main("training.probe", work)
