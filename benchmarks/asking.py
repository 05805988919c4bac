"""The engine asked in process, many rows at once, and how answers are scored: what the quality benchmarks share."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks import tuning
from evals.statistics import bca_interval
from moatelier.contracts import Interval, Proposal
from serving.completions import Said
from serving.engine import Sampling, TextEngine
from serving.row import Row

Names = Sequence[str | None]
"""Loaded adapters that choose each token together, None the base; a single one answers alone."""
Rights = NDArray[np.float64]
"""1 where an answer is right, else 0 `[rows]`."""


@dataclass(frozen=True)
class Asked:
    """What one subject said to all rows, and what it took."""

    proposals: list[Proposal]
    tokens: int
    seconds: float


def messages(text: str) -> list[dict[str, str]]:
    """The conversation that asks for a text's category: every subject is sent this one."""
    [row] = tuning.rows_of([(text, "")])
    return list(row.messages[:-1])


def say(
    engine: TextEngine, texts: Sequence[str], names: Sequence[Names], sampling: Sampling, choices: int = 1
) -> list[list[Said]]:
    """Every text answered in one batch `[texts][choices]`.

    Args:
        engine: With the adapters loaded.
        texts: What people say.
        names: Who answers each of them.
        sampling: With log probabilities. A seed is the first text's: with equal ones, chance would be equal everywhere.
        choices: Answers to each.
    """
    made = [
        engine.submit(messages(text), adapters=each, sampling=_drawn(sampling, place * choices), choices=choices)
        for place, (text, each) in enumerate(zip(texts, names, strict=True))
    ]
    while any(not row.over for rows in made for row in rows):
        engine.step()
    return [[_said(row, len(each)) for row in rows] for rows, each in zip(made, names, strict=True)]


def _drawn(sampling: Sampling, further: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + further)


def _said(row: Row, members: int) -> Said:
    """What a row says; its tokens are those that all members computed."""
    if row.error:
        raise row.error
    told = [each.logprob for delta in row.news for each in delta.logprobs]
    mean = sum(told) / len(told) if told else None
    return Said(row.text.text, row.finish_reason or "stop", mean, row.prompt_tokens, row.generated * members)


def ask(engine: TextEngine, rows: Sequence[tuple[str, str]], names: Names, sampling: Sampling) -> Asked:
    """Every row's answer with its mean log probability; several names choose each token together."""
    start = time.perf_counter()
    said = say(engine, [text for text, _ in rows], [names] * len(rows), sampling)
    model = str(names[0])
    proposals = [Proposal(layer=0, place=0, model=model, text=one.text, likelihood=one.likelihood) for [one] in said]
    return Asked(proposals, sum(one.completion_tokens for [one] in said), time.perf_counter() - start)


def rights(texts: Sequence[str], truth: Sequence[str]) -> Rights:
    """Which answers are the expected ones, but for outer white space."""
    return np.array([float(text.strip() == right) for text, right in zip(texts, truth, strict=True)])


def mean_over(values: Rights) -> Interval:
    """The mean over rows, of paired differences say, with its bootstrap interval."""
    point = float(values.mean())
    same = Interval(point=point, low=point, high=point, claim_low=point, method="bca")
    return bca_interval(lambda weights: weights @ values / weights.sum(axis=1), len(values), same)
