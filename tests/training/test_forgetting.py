"""Half Fine-Tuning forgets less than full (arXiv 2404.18466): a tiny model learns one thing, then another."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moatelier.job import Job
from modalities.text.model import TextBase, load_base
from tests.training.rows import SYSTEM, rows, spec
from tests.training.stepped import alone
from training import methods, stepping
from training.text import TextObjective, encode

FIRST = rows(12)
ANSWERS = ("fetch the manager", "send flowers", "wait a year")
SECOND = [
    row
    | {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{ANSWERS[number % 3][::-1]} because {number}"},
            {"role": "assistant", "content": ANSWERS[number % 3]},
        ]
    }
    for number, row in enumerate(rows(12))
]


def objective(base: TextBase, made: list[dict[str, Any]], method: str, seed: int, home: Path) -> TextObjective:
    told = spec("0" * 64, method=method, layers="all", seed=seed)
    return TextObjective(told, base, encode(base, "train", made), (), "", Job(home / "jobs" / "job", quiet=True))


def mean(made: TextObjective) -> float:
    with torch.no_grad():
        return float(made.loss(range(len(made.sizes)))) / sum(made.units)


def learn(
    base: TextBase, made: list[dict[str, Any]], method: str, seed: int, rate: float, until: float, home: Path
) -> None:
    """Change the base until its loss on the rows has come down."""
    told = spec("0" * 64, method=method, layers="all", seed=seed)
    learnt = objective(base, made, method, seed, home)
    stepper = stepping.make(told, methods.stepper(method), learnt, alone(), lambda _: rate, 200)
    found = [stepper.step(range(len(made)), 0)]
    while found[-1] > until:
        found.append(stepper.step(range(len(made)), len(found)))
        assert len(found) < 200, "it does not learn"
    base.model.requires_grad_(False)


def test_half_fine_tuning_forgets_less_than_full(home: Path, tiny: str) -> None:
    """Both learn the second thing as well as each other; at three choices of the half the first is lost less."""
    base = load_base("tiny", "fp32")
    learn(base, FIRST, "full", 0, 3e-3, 0.2, home)
    before = mean(objective(base, FIRST, "full", 0, home))
    forgotten = []
    for method, seed in (("full", 0), ("hft", 0), ("hft", 1), ("hft", 2)):
        copied = replace(base, model=copy.deepcopy(base.model))
        learn(copied, SECOND, method, seed, 3e-4, 4.0, home)
        forgotten.append(mean(objective(copied, FIRST, "full", 0, home)) - before)
    assert forgotten[0] > 0.5, "nothing was forgotten, so that there is nothing to compare"
    assert max(forgotten[1:]) < 0.9 * forgotten[0]
