"""What a base knows of a task before it is tuned: how likely it finds the answers of some training rows.

    python -m evals.bases --spec spec.json      # {"base": id, "rows": digest of rows as JSON lines, "seed": 0}

The rows are ones that are trained on later, never locked ones. Each answer is scored beside `OTHERS` other rows'
answers to the same question, by the mean log probability of its tokens.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

from moatelier.errors import DataError
from moatelier.job import Job, main
from serving.engine import TextEngine
from store import artifacts
from training.batches import Example
from training.text import encode

ROWS, OTHERS = 64, 3
_TOGETHER = 16
"""Rows that are scored at once, between looks at whether the job shall stop."""

Lines = Sequence[dict[str, Any]]


def work(spec: dict[str, Any], job: Job) -> dict[str, Any]:
    """Score a base on rows.

    Returns:
        `zero_shot`, how often a row's own answer is likelier than the others (None where all answers are the same),
        `loss`, nats a byte of the own answers, and the number of `rows`.

    Raises:
        ModelUnavailable: The base is not pulled.
        DataError: No row fits into its context.
        Cancelled: The job was asked to stop.
    """
    engine = TextEngine(spec["base"])
    lines = [json.loads(line) for line in artifacts.get_bytes(spec["rows"]).split(b"\n") if line][:ROWS]
    chance = random.Random(spec.get("seed", 0))
    right, compared, nats, size, rows = 0, 0, 0.0, 0, 0
    for at in range(0, len(lines), _TOGETHER):
        job.check()
        for line in lines[at : at + _TOGETHER]:
            asked = [line, *_others(line, lines, chance)]
            examples = encode(engine.base, "train", asked)
            if max(len(example.ids) for example in examples) > engine.context:
                continue
            own, *others = _told(engine, examples)
            rows, nats = rows + 1, nats - sum(own)
            size += len(_answers(line).encode())
            if others:
                compared += 1
                right += all(_mean(own) > _mean(other) for other in others)
        job.emit("progress", at, done=min(at + _TOGETHER, len(lines)), rows=len(lines), part=spec["base"])
    if not rows:
        raise DataError(
            "No row fits into the base's context.", where=spec["base"], remedy="Use a base that reads more."
        )
    score = right / compared if compared else None
    return {"zero_shot": score, "loss": round(nats / max(1, size), 6), "rows": rows}


def _others(line: dict[str, Any], lines: Lines, chance: random.Random) -> list[dict[str, Any]]:
    """The row with other rows' last answers, different ones, the same for each base."""
    own = line["messages"][-1]["content"]
    different = sorted({each["messages"][-1]["content"] for each in lines} - {own})
    picked = chance.sample(different, min(OTHERS, len(different)))
    return [
        line | {"messages": [*line["messages"][:-1], {"role": "assistant", "content": answer}]} for answer in picked
    ]


def _told(engine: TextEngine, examples: Sequence[Example]) -> list[list[float]]:
    """The log probabilities of the trained tokens of each."""
    scores = engine.score([example.ids for example in examples], adapter=None)
    return [
        [logprob for logprob, trained in zip(told, example.trained[1:], strict=True) if trained]
        for told, example in zip(scores, examples, strict=True)
    ]


def _answers(line: dict[str, Any]) -> str:
    return "".join(message["content"] for message in line["messages"] if message["role"] == "assistant")


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / max(1, len(logprobs))


if __name__ == "__main__":
    main("evals.bases", work)
