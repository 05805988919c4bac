"""Quality within one domain, where routing cannot help: what is gained by asking several adapters of the same task.

All 77 banking77 intents, 10 training rows each; four adapters of the top third that differ in one thing. The recipe is
chosen on select rows, a part of the test file fixed by hash, and scored once on the locked rest.
"""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import tuning
from benchmarks.adapters import random_adapter
from benchmarks.asking import Asked, Names, ask, mean_over, messages, rights
from benchmarks.serving import questions
from moatelier.contracts import Proposal
from modalities.bundle import bundle_folder
from modalities.text.model import load_base
from serving.aggregate import majority, select, vote
from serving.engine import Sampling, TextEngine

EACH = 10
"""Training rows of an intent; with shards, of each adapter."""
SELECT_ROWS = 385
TOKENS = 18
"""The longest intent and its stop token."""
SOURCES: dict[str, list[dict[str, Any]]] = {
    "seeds": [{"seed": seed} for seed in range(4)],
    "shards": [{"seed": shard, "shard": shard} for shard in range(4)],
    "ranks": [{"seed": n, "rank": rank, "alpha": 2.0 * rank} for n, rank in enumerate((4, 8, 16, 32))],
    "methods": [
        {"seed": 0},
        {"seed": 1, "method": "alora"},
        {"seed": 2, "layers": "all", "learning_rate": 5e-4},
        {"seed": 3, "learning_rate": 1e-3},
    ],
}
"""What makes the four differ."""
TIMED = 25
"""Rows that are asked one at a time, for the wall time of a request."""
Bools = NDArray[np.bool_]
console = Console(stderr=True)


def test_rows(path: Path) -> tuple[list[tuple[str, str]], int]:
    """(text, intent) of all rows, those that choose first; and how many those are."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: sha256(row[0].encode()).digest()), SELECT_ROWS


def train_rows(path: Path, shard: int) -> list[tuple[str, str]]:
    """`EACH` rows of every intent; another shard has others."""
    found: dict[str, list[tuple[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["category"], []).append((row["text"], row["category"]))
    return [row for rows in found.values() for row in rows[shard * EACH : (shard + 1) * EACH]]


def adapters(folder: Path, base: str, source: str) -> list[str]:
    """Four adapters' digests."""
    made = []
    for number, given in enumerate(SOURCES[source]):
        changes = {"epochs": 3.0, "learning_rate": 2e-3} | given  # what the planner takes for so few rows
        card = tuning.card_of(tuning.rows_of(train_rows(folder / "train.csv", changes.pop("shard", 0))))
        start = time.monotonic()
        made.append(tuning.train(card, base, f"{source}{number}", **changes))
        console.print(f"{source} {number}: trained in {time.monotonic() - start:.0f} s")
    return made


def rules() -> dict[str, Callable[[Sequence[Proposal]], Proposal]]:
    """The aggregators that are tried on select rows, beside the lockstep ensemble."""
    return {
        "majority vote": lambda proposals: majority(proposals)[0],
        "vote by likelihood": lambda proposals: vote(proposals, prior=0, likelihood=1),
        "selection by likelihood": lambda proposals: select(proposals, prior=0, likelihood=1, agreement=0),
        "selection by likelihood and agreement": lambda proposals: select(
            proposals, prior=0, likelihood=1, agreement=1
        ),
    }


def source(folder: Path, base: str, name: str, precision: Any, most: int | None = None) -> dict[str, Any]:
    """The whole trial for one source of difference.

    Args:
        folder: With train.csv and test.csv.
        base: Catalogue id.
        name: One of `SOURCES`.
        precision: The engine's.
        most: So many test rows at most, those that choose included.
    """
    digests = adapters(folder, base, name)
    engine = TextEngine(base, precision)
    for digest in digests:
        engine.load_adapter(digest, bundle_folder(digest))
    rows, choosing = test_rows(folder / "test.csv")
    rows = rows[:most]
    sampling = Sampling(TOKENS, logprobs=0)
    asked = [ask(engine, rows, [digest], sampling) for digest in digests]
    together = ask(engine, rows, digests, sampling)
    truth = [intent for _, intent in rows]
    singles = np.array([_right(each.proposals, truth) for each in asked])
    each_row = [[each.proposals[place] for each in asked] for place in range(len(rows))]
    found = {rule: _right([choose(row) for row in each_row], truth) for rule, choose in rules().items()}
    found["lockstep ensemble"] = _right(together.proposals, truth)
    chosen = max(found, key=lambda rule: float(found[rule][:choosing].mean()))
    locked = slice(choosing, None)
    mean = singles[:, locked].mean(axis=0)
    gain = mean_over(found[chosen][locked] - mean)
    oracle = singles[:, locked].any(axis=0).mean()
    one = sum(each.seconds for each in asked) / 4
    cost = (
        together
        if chosen == "lockstep ensemble"
        else Asked([], sum(a.tokens for a in asked), sum(a.seconds for a in asked))
    )
    return {
        "source": name,
        "rows": len(rows) - choosing,
        "singles": [round(float(right[locked].mean()), 4) for right in singles],
        **{rule: round(float(right[locked].mean()), 4) for rule, right in found.items()},
        "chosen": chosen,
        "gain_points": 100 * gain.point,
        "gain_low": 100 * gain.low,
        "oracle": float(oracle),
        "share_of_oracle": float((found[chosen][locked].mean() - mean.mean()) / (oracle - mean.mean())),
        "error_correlation": _correlation(singles[:, locked]),
        "seconds_vs_one": cost.seconds / one,
        "wall_vs_one": _wall_vs_one(
            engine,
            [messages(text) for text, _ in rows[choosing : choosing + TIMED]],
            [digests] if chosen == "lockstep ensemble" else [[digest] for digest in digests],
            sampling,
        ),
        "right_per_1000_tokens": 1000 * float(found[chosen].mean()) * len(rows) / cost.tokens,
        "right_per_1000_tokens_one": 1000 * float(singles.mean()) * len(rows) * 4 / sum(a.tokens for a in asked),
        "right_per_second": float(found[chosen].mean()) * len(rows) / cost.seconds,
        "right_per_second_one": float(singles.mean()) * len(rows) / one,
    }


def wall_vs_one(base: str) -> float:
    """Wall time of four top-third proposers and a selection against one request, prompts of 200 and answers of 64."""
    loaded = load_base(base, "fp32")
    digests = [random_adapter(loaded, f"top{n}", n) for n in range(4)]
    engine = TextEngine(base, "int4")
    for digest in digests:
        engine.load_adapter(digest, bundle_folder(digest))
    return _wall_vs_one(engine, questions(1, 150) * 5, [[digest] for digest in digests], Sampling(64, logprobs=0))


def _wall_vs_one(
    engine: TextEngine, asked: Sequence[Sequence[Mapping[str, str]]], subjects: Sequence[Names], sampling: Sampling
) -> float:
    """Median ratio of the wall time of all subjects' answers and a selection to that of the first alone."""
    alone = subjects[0][:1]
    ratios = [  # in pairs, since the machine's speed drifts
        _seconds(engine, turns, subjects, sampling) / _seconds(engine, turns, [alone], sampling) for turns in asked
    ]
    return float(np.median(ratios))


def _seconds(
    engine: TextEngine, turns: Sequence[Mapping[str, str]], subjects: Sequence[Names], sampling: Sampling
) -> float:
    engine.blocks.clear()
    start = time.perf_counter()
    rows = [engine.submit(turns, adapters=names, sampling=sampling)[0] for names in subjects]
    while any(not row.over for row in rows):
        engine.step()
    said = []
    for place, row in enumerate(rows):
        told = [each.logprob for delta in row.news for each in delta.logprobs]
        mean = sum(told) / max(len(told), 1)
        said.append(Proposal(layer=0, place=place, model="", text=row.text.text, likelihood=mean))
    select(said, prior=0, likelihood=1, agreement=1)
    return time.perf_counter() - start


def _right(proposals: Sequence[Proposal], truth: Sequence[str]) -> NDArray[np.float64]:
    return rights([given.text for given in proposals], truth)


def _correlation(singles: NDArray[np.float64]) -> float:
    """Mean correlation of two adapters' errors."""
    return float(np.mean([np.corrcoef(singles[a], singles[b])[0, 1] for a, b in combinations(range(4), 2)]))
