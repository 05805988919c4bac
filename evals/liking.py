"""Preferences to what an adapter has come to like: each row's answers under the adapter, against the base.

An answer's gain is how much likelier the adapter finds it than the base does, in nats. A pair counts when the chosen
answer gains more than the rejected one; an answer with a thumb when a good one gains, or a bad one loses. The base
gains nothing and is right on none.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.answered import Answered
from evals.matching import CHUNK_ROWS, Progress
from evals.rows import EvalRow
from moatelier.errors import DataError
from moatelier.ids import canonical_json, digest_json
from moatelier.job import write_atomically
from serving.engine import TextEngine
from training.preferring import last_answer
from training.text import encode

LIKED, NOT = "liked as wanted", "not liked as wanted"


def like_all(
    engine: TextEngine,
    rows: Sequence[EvalRow],
    *,
    adapter: str | None,
    folder: Path,
    progress: Progress,
) -> list[Answered]:
    """Weigh every row's answers.

    Args:
        engine: With the adapter loaded.
        rows: Of preferences or thumbs.
        adapter: The name it is loaded under; None is the base.
        folder: Where chunks of verdicts are kept; a rerun reads them.
        progress: Told after each chunk.

    Raises:
        DataError: A row says nothing of its answers.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    gains: list[float] = []
    started, weighed = time.monotonic(), 0
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        path = folder / f"{digest_json([adapter, [[row.messages, row.rejected, row.good] for row in chunk]])[:32]}.json"
        if not path.exists():
            write_atomically(path, canonical_json(_gains(engine, chunk, adapter)))
            weighed += len(chunk)
        gains += json.loads(path.read_bytes())
        pace = (time.monotonic() - started) / max(weighed, 1)
        progress(len(gains), pace * (len(rows) - len(gains)))
    right = [False] * len(rows) if adapter is None else liked(rows, gains)
    return [Answered(LIKED, LIKED if each else NOT, group=row.group) for row, each in zip(rows, right, strict=True)]


def liked(rows: Sequence[EvalRow], gains: Sequence[float]) -> list[bool]:
    """Which rows are liked as wanted, by their gains."""
    return [gain < 0 if row.good is False else gain > 0 for row, gain in zip(rows, gains, strict=True)]


def _gains(engine: TextEngine, rows: Sequence[EvalRow], adapter: str | None) -> list[float]:
    """Of each row its answer's gain, less that of the rejected one where there is one."""
    lines: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        if row.rejected is None and row.good is None:
            raise DataError("The row says nothing of its answer.", where=row.id, remedy="Curate the data again.")
        answers = [row.truth] if row.rejected is None else [row.truth, row.rejected]
        lines += [
            {"row": number, "messages": [*row.prompt, {"role": "assistant", "content": told}]} for told in answers
        ]
    gains = [0.0] * len(rows)
    if adapter is None:
        return gains
    examples = [last_answer(example) for example in encode(engine.base, "dev", lines)]
    tuned, base = (engine.score([one.ids for one in examples], adapter=name) for name in (adapter, None))
    seen: set[int] = set()
    for line, example, mine, theirs in zip(lines, examples, tuned, base, strict=True):
        gain = sum(mine[place - 1] - theirs[place - 1] for place in example.targets)
        gains[line["row"]] += -gain if line["row"] in seen else gain
        seen.add(line["row"])
    return gains
