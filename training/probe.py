"""How fast this machine tunes and runs a base: `python -m training.probe --spec spec.json` with {"base": id}.

Measured once a base and kept in `<home>/probe-<base digest8>.json`; forecasts rest on it. Rows of 48 tokens that share
no beginning and have 6 trained tokens stand for short rows, so that a forecast errs on the slow side.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moatelier.contracts import TrainSpec
from moatelier.job import Job, main, write_atomically
from moatelier.settings import settings
from modalities import catalogue
from modalities.text.model import TextBase, load_base
from training import methods
from training.batches import Example
from training.inputs import Source
from training.loss import frozen_head_loss

_ROWS, _TOKENS, _TRAINED = 16, 48, 6
_NEW_TOKENS = 6
_SECONDS = 2.0


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure the base, or tell what was measured before.

    Returns:
        `train_tokens_per_s` (tuned layers forward and back), `frozen_tokens_per_s` (the layers below, forward),
        `generate_tokens_per_s` (16 rows at once) and `precision`.

    Raises:
        ModelUnavailable: The base is not pulled.
    """
    file = probe_file(spec["base"])
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    base = load_base(spec["base"])
    measured: dict[str, Any] = {"precision": base.precision}
    measured["generate_tokens_per_s"] = _rate(lambda: _generate(base), _ROWS * _NEW_TOKENS)
    job.check()
    measured |= _training_rates(base)
    write_atomically(file, json.dumps(measured).encode())
    job.emit("probe", 0, **measured)
    return measured


def probe_file(base_id: str) -> Path:
    """Where the base's figures are kept."""
    return settings().home / f"probe-{catalogue.base_digest(base_id)[:8]}.json"


def _training_rates(base: TextBase) -> dict[str, float]:
    spec = TrainSpec(method="lora", base=base.entry_id, dataset="", suffix="probe")
    first, count = base.first_layer_default, _ROWS * _TOKENS
    source = Source(base, _rows(base.config.vocab), first, base.precision, cache=False)
    rows = list(range(_ROWS))
    frozen = _rate(lambda: source.inputs(rows), count)
    inputs = source.inputs(rows)
    adapted = methods.load(spec, "text").attach(base.model, spec, first)
    head = base.model.get_output_embeddings()
    adapted.train()
    train = _rate(lambda: torch.autograd.backward(frozen_head_loss(source.tuned(inputs), inputs.targets, head)), count)
    return {"frozen_tokens_per_s": frozen, "train_tokens_per_s": train}


def _rows(vocabulary: int) -> list[Example]:
    chance = random.Random(0)
    trained = tuple(position >= _TOKENS - _TRAINED for position in range(_TOKENS))
    return [
        Example(f"row {row}", (row, *(chance.randrange(vocabulary) for _ in range(_TOKENS - 1))), trained)
        for row in range(_ROWS)
    ]


@torch.inference_mode()
def _generate(base: TextBase) -> None:
    ids = torch.tensor([row.ids for row in _rows(base.config.vocab)], device=base.device)
    cache = None
    for _ in range(_NEW_TOKENS):
        output = base.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)


def _rate(once: Callable[[], object], tokens: int) -> float:
    """Tokens a second at the best of a few repeats; the first one warms up."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - began < _SECONDS and len(times) < 6):
        start = time.perf_counter()
        once()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return round(tokens / min(times[1:]), 1)


if __name__ == "__main__":
    main("training.probe", work)
