"""Graders: from an item and a sample to a score and whether it passes. What models say comes from whoever calls.

Measures are those of `modalities.text.similarity`; `cosine` is that of the service's own embedding model.
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from evals.places import filled
from moatelier.contracts import Contract, Grader, LabelModel, ScoreModel, StringCheck, TextSimilarity
from moatelier.errors import UpstreamError
from modalities.text.similarity import MEASURES, compares

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
SCORES = (0.0, 1.0)
"""The range of a model's score where none is named."""
Messages = list[dict[str, str]]
Ask = Callable[[str, Messages, Mapping[str, Any]], Awaitable[str]]
"""(model, messages, sampling) -> what it says."""
Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]


class Result(Contract):
    """What a grader makes of an item."""

    name: str
    type: str
    score: float
    passed: bool


async def graded(grader: Grader, known: Mapping[str, Any], ask: Ask, embed: Embed) -> Result:
    """Grade one item.

    Args:
        grader: The criterion.
        known: `item` and, where there is one, `sample`.
        ask: Asks a grading model.
        embed: Gives texts their vectors.

    Raises:
        DataError: A place in the grader's texts names nothing.
        UpstreamError: A grading model says nothing that could be used.
    """
    if isinstance(grader, StringCheck):
        passed = compares(grader.operation, filled(grader.input, known), filled(grader.reference, known))
        return _result(grader, float(passed), passed)
    if isinstance(grader, TextSimilarity):
        score = await _alike(grader, filled(grader.input, known), filled(grader.reference, known), embed)
        return _result(grader, score, score >= (grader.pass_threshold or 0.0))
    if isinstance(grader, LabelModel):
        passed = await _label(grader, known, ask) in grader.passing_labels
        return _result(grader, float(passed), passed)
    return await _scored(grader, known, ask)


def _result(grader: Grader, score: float, passed: bool) -> Result:
    return Result(name=grader.name, type=grader.type, score=round(score, 6), passed=passed)


async def _alike(grader: TextSimilarity, text: str, reference: str, embed: Embed) -> float:
    if grader.evaluation_metric in MEASURES:
        return MEASURES[grader.evaluation_metric](text, reference)
    one, other = await embed([text, reference])
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _asked(grader: LabelModel | ScoreModel, known: Mapping[str, Any], rule: str) -> Messages:
    turns = [{"role": turn.role, "content": filled(turn.text, known)} for turn in grader.input]
    turns = [{**turn, "role": "system" if turn["role"] == "developer" else turn["role"]} for turn in turns]
    if turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{rule}"}, *turns[1:]]
    return [{"role": "system", "content": rule}, *turns]


async def _label(grader: LabelModel, known: Mapping[str, Any], ask: Ask) -> str:
    rule = f"Answer with one of these labels and nothing else: {', '.join(grader.labels)}."
    said = await ask(grader.model, _asked(grader, known, rule), {"temperature": 0, "max_tokens": 32})
    return read_label(said, grader.labels, grader.name)


def read_label(said: str, labels: Sequence[str], name: str) -> str:
    """The label that a model has given: alone, or the only one that its answer holds. Raises UpstreamError."""
    plain = said.strip().strip("\"'`.").casefold()
    exact = [label for label in labels if label.casefold() == plain]
    held = exact or [
        label for label in labels if re.search(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", said.casefold())
    ]
    if len(held) != 1:
        raise UpstreamError("The grading model gave none of the labels.", where=name)
    return held[0]


async def _scored(grader: ScoreModel, known: Mapping[str, Any], ask: Ask) -> Result:
    low, high = grader.range or SCORES
    told = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    told.pop("reasoning_effort", None)
    most = told.pop("max_completions_tokens", 64)
    rule = f"Answer with one number from {low:g} to {high:g} and nothing else."
    said = await ask(grader.model, _asked(grader, known, rule), {"temperature": 0, "max_tokens": most} | told)
    found = _NUMBER.search(said)
    if found is None or not low <= float(found[0]) <= high:
        raise UpstreamError("The grading model gave no number of the range.", where=grader.name)
    score = float(found[0])
    threshold = (low + high) / 2 if grader.pass_threshold is None else grader.pass_threshold
    return _result(grader, score, score >= threshold)
