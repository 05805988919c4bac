"""How fast this machine tunes and runs a base: `python -m training.probe --spec spec.json` with {"base": id}.

Measured once a base and kept in `<home>/probe-<base digest8>.json`; forecasts rest on it. Rows of 48 tokens that share
no beginning and have 6 trained tokens stand for short rows, so that a forecast errs on the slow side. For images the
spec may name a `size`, for recordings a `window_s` and the `kind`, for questions about pictures the `vision` base; each
has figures of its own.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch

from moatelier.contracts import TrainSpec
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from moatelier.job import Job, main, write_atomically
from moatelier.settings import settings
from modalities import catalogue
from modalities.imagetext.questions import FORMS
from modalities.text.model import TextBase, load_base
from training import methods, paces
from training.batches import Example
from training.inputs import Source
from training.loss import frozen_head_loss

_ROWS, _TOKENS, _TRAINED = 16, 48, 6
_NEW_TOKENS = 6
_ASKED_TOKENS, _ASKED_TRAINED = 24, 2
"""Of a question about a picture with its answer, besides what all questions share."""
_SECONDS = 2.0
_TOLD = ("size", "window_s", "kind", "vision")


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure the base, or tell what was measured before.

    Returns:
        `train_tokens_per_s` (tuned layers forward and back), `frozen_tokens_per_s` (the layers below, forward),
        `generate_tokens_per_s` (16 rows at once) and `precision`; for images and recordings see `training.paces`.

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
        measured = _questions(spec["base"], spec["vision"], spec.get("size"))
    elif spec.get("kind") == "retrieval":
        measured = paces.pairs(spec["base"], spec.get("size"), _SECONDS)
    elif kind == "vision":
        measured = paces.images(spec["base"], spec.get("size"), _SECONDS)
    elif kind == "audio":
        told = str(spec.get("kind") or "transcription")
        measured = paces.recordings(spec["base"], spec.get("window_s"), told, _SECONDS)
    else:
        measured = _text(spec["base"], job)
    job.emit("probe", 0, **measured)  # before the file: whoever finds that says nothing
    fault_point("probe.measured")
    write_atomically(file, json.dumps(measured).encode())
    return measured


def probe_file(base_id: str, told: dict[str, Any] | None = None) -> Path:
    """Where the base's figures are kept; those for a size or a window apart."""
    more = f"-{digest_json(told)[:8]}" if told else ""
    return settings().home / f"probe-{catalogue.base_digest(base_id)[:8]}{more}.json"


def _text(base_id: str, job: Job) -> dict[str, Any]:
    base = load_base(base_id)
    measured: dict[str, Any] = {"precision": base.precision}
    measured["generate_tokens_per_s"] = paces.rate(lambda: _generate(base), _ROWS * _NEW_TOKENS, _SECONDS)
    job.check()
    return measured | _training_rates(base)


def _questions(base_id: str, eyes: str, size: int | None) -> dict[str, Any]:
    """Rates of questions about pictures, of which each is seen once, and its mirror image, for three questions."""
    base = load_base(base_id)
    rates = _training_rates(base, _ASKED_TOKENS, _ASKED_TRAINED)
    frozen, train = (rates[name] / _ASKED_TOKENS for name in ("frozen_tokens_per_s", "train_tokens_per_s"))
    seen = paces.sights(eyes, size, _SECONDS) * len(FORMS) / 2
    told = {"precision": base.precision, "frozen_rows_per_s": round(1 / (1 / frozen + 1 / seen), 1)}
    return told | {"train_rows_per_s": round(train, 1)}


def _training_rates(base: TextBase, tokens: int = _TOKENS, trained: int = _TRAINED) -> dict[str, float]:
    spec = TrainSpec(method="lora", base=base.entry_id, dataset="", suffix="probe")
    first, count = base.first_layer_default, _ROWS * tokens
    source = Source(base, _rows(base.config.vocab, tokens, trained), first, base.precision, cache=False)
    rows = list(range(_ROWS))
    frozen = paces.rate(lambda: source.inputs(rows), count, _SECONDS)
    inputs = source.inputs(rows)
    adapted = methods.load(spec, "text").attach(base.model, spec, first)
    head = base.model.get_output_embeddings()
    adapted.train()

    def step() -> None:
        torch.autograd.backward(frozen_head_loss(source.tuned(inputs), inputs.targets, head))

    train = paces.rate(step, count, _SECONDS)
    return {"frozen_tokens_per_s": frozen, "train_tokens_per_s": train}


def _rows(vocabulary: int, tokens: int = _TOKENS, trained: int = _TRAINED) -> list[Example]:
    chance = random.Random(0)
    told = tuple(position >= tokens - trained for position in range(tokens))
    return [
        Example(f"row {row}", (row, *(chance.randrange(vocabulary) for _ in range(tokens - 1))), told)
        for row in range(_ROWS)
    ]


@torch.inference_mode()
def _generate(base: TextBase) -> None:
    ids = torch.tensor([row.ids for row in _rows(base.config.vocab)], device=base.device)
    cache = None
    for _ in range(_NEW_TOKENS):
        output = base.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    main("training.probe", work)
