"""What answers are rewarded for, from 0 to 1: verifiable facts first, a judge or a reward model where there are none.

A row to be answered is `{"messages": [...], "truth": ..., "tests": ...}`, its messages without the answer.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import regex
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from moatelier.contracts import RewardSpec
from moatelier.errors import DataError, InvalidRequest, NotFound
from moatelier.job import Job
from moatelier.settings import settings
from modalities.text.similarity import MEASURES, compares
from serving.upstream import Upstream
from training.reward_model import RewardModel
from training.sandbox import run_all

Asked = Sequence[dict[str, Any]]
Reward = Callable[[Asked, Sequence[str]], list[float]]
"""Rows and an answer to each -> rewards from 0 to 1."""

_REGEX_S = 1.0
_FENCE = regex.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", regex.DOTALL)
_SCORE = regex.compile(r"\d+(?:\.\d+)?")
_NEEDED = {"exact_match": "truth", "string_check": "truth", "text_similarity": "truth", "unit_test": "tests"}
_BEST = 10
_JUDGE = (
    "You grade an answer to a request. What counts: {rubric}\n\nThe request:\n{asked}\n\nThe answer:\n{answer}\n\n"
    f"Say only a number from 0 (bad) to {_BEST} (perfect)."
)


def combine(specs: Sequence[RewardSpec], rows: Asked, job: Job) -> Reward:
    """The weighted mean of several rewards.

    Args:
        specs: What is rewarded.
        rows: All rows that will be asked, to refuse early those that a reward cannot judge.
        job: Of the training.

    Raises:
        InvalidRequest: There is none, or one that cannot be used.
        DataError: A row lacks the truth or the tests that a reward compares with.
    """
    if not specs:
        raise InvalidRequest(
            "Nothing is rewarded.", where="rewards", remedy="Name a reward, such as one of kind `json_schema`."
        )
    for spec in specs:
        _check_rows(spec, rows)
    parts = [(spec.weight / sum(each.weight for each in specs), _make(spec, job)) for spec in specs]

    def combined(asked: Asked, answers: Sequence[str]) -> list[float]:
        told = [[weight * value for value in reward(asked, answers)] for weight, reward in parts]
        return [sum(values) for values in zip(*told, strict=True)]

    return combined


def _check_rows(spec: RewardSpec, rows: Asked) -> None:
    needed = _NEEDED.get(spec.kind)
    lacking = next((row for row in rows if needed and not row.get(needed)), None)
    if lacking is not None:
        raise DataError(
            f"The row has no {needed}, which the reward {spec.kind} compares with.",
            where=f"row {lacking.get('row', '?')}",
            remedy=f"Give every row its {needed}, or use another reward.",
        )


def _make(spec: RewardSpec, job: Job) -> Reward:
    if spec.kind == "reward_model":
        model = RewardModel(spec.bundle, job)
        return lambda asked, answers: model.rate([row["messages"] for row in asked], answers)
    makers: dict[str, Callable[[RewardSpec], Reward]] = {
        "exact_match": lambda _: exact_match,
        "regex": matching,
        "json_schema": valid_json,
        "unit_test": passing,
        "judge": judged,
        "string_check": checked,
        "text_similarity": alike,
    }
    return makers[spec.kind](spec)


def exact_match(asked: Asked, answers: Sequence[str]) -> list[float]:
    """1 for an answer that is the row's truth but for white space."""
    pairs = zip(asked, answers, strict=True)
    return [float(answer.split() == str(row["truth"]).split()) for row, answer in pairs]


def checked(spec: RewardSpec) -> Reward:
    """1 for an answer that compares with the row's truth as the operation says."""
    return lambda asked, answers: [
        float(compares(spec.operation, answer, str(row["truth"]))) for row, answer in zip(asked, answers, strict=True)
    ]


def alike(spec: RewardSpec) -> Reward:
    """From 0 to 1, how alike the answer and the row's truth are.

    Raises:
        InvalidRequest: It is to be measured by embeddings, for which there is no model beside a training.
    """
    if spec.measure not in MEASURES:
        raise InvalidRequest(
            f"The measure {spec.measure} cannot reward a training.",
            where="rewards",
            remedy=f"Use one of {', '.join(MEASURES)}.",
        )
    measure = MEASURES[spec.measure]
    return lambda asked, answers: [
        measure(answer, str(row["truth"])) for row, answer in zip(asked, answers, strict=True)
    ]


def matching(spec: RewardSpec) -> Reward:
    """1 for an answer that the pattern matches as a whole; one that takes longer than a second to tell earns 0.

    Raises:
        InvalidRequest: The pattern is none.
    """
    try:
        pattern = regex.compile(spec.pattern, regex.DOTALL)
    except regex.error as error:
        raise InvalidRequest(f"The pattern is no regular expression: {error}.", where="rewards") from error

    def matches(answer: str) -> bool:
        try:
            return pattern.fullmatch(answer.strip(), timeout=_REGEX_S) is not None
        except TimeoutError:
            return False

    return lambda _, answers: [float(matches(answer)) for answer in answers]


def valid_json(spec: RewardSpec) -> Reward:
    """1 for an answer that is nothing but JSON that satisfies the schema.

    Raises:
        InvalidRequest: The schema is none.
    """
    try:
        schema = json.loads(spec.json_schema)
        jsonschema.Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError) as error:
        raise InvalidRequest(f"The JSON schema cannot be used: {error}", where="rewards") from error
    validator = jsonschema.Draft202012Validator(schema, registry=Registry())  # of its own: no `$ref` is fetched

    def valid(answer: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(answer)))
        except Unresolvable as error:
            raise InvalidRequest("The JSON schema refers to what it does not hold.", where="rewards") from error
        except (ValueError, RecursionError):
            return False

    return lambda _, answers: [float(valid(answer)) for answer in answers]


def passing(spec: RewardSpec) -> Reward:
    """1 for an answer whose Python code, fenced or bare, passes the row's tests; see `training.sandbox`."""

    def passed(asked: Asked, answers: Sequence[str]) -> list[float]:
        programs = [f"{code_of(answer)}\n\n{row['tests']}\n" for row, answer in zip(asked, answers, strict=True)]
        return [float(ran) for ran in run_all(programs, seconds=spec.seconds, memory_mb=spec.memory_mb)]

    return passed


def code_of(answer: str) -> str:
    """The first fenced block of an answer, or all of it."""
    found = _FENCE.search(answer)
    return str(found[1]) if found else answer


def judged(spec: RewardSpec) -> Reward:
    """What another model makes of an answer, asked at temperature 0; an answer it gives no number for earns 0.

    Raises:
        NotFound: No upstream of this name is configured.
    """
    endpoint = settings().upstreams.get(spec.upstream)
    if endpoint is None:
        raise NotFound(
            "No upstream of this name is configured.", where=spec.upstream, remedy="Set MOATELIER_UPSTREAMS."
        )

    async def ask(asked: Asked, answers: Sequence[str]) -> list[float]:
        most = endpoint.concurrency
        async with Upstream(endpoint.url, endpoint.secret, endpoint.timeout_s, concurrency=most) as upstream:
            pairs = zip(asked, answers, strict=True)
            return list(await asyncio.gather(*(_grade(upstream, spec, row, answer) for row, answer in pairs)))

    return lambda asked, answers: asyncio.run(ask(asked, answers))


async def _grade(upstream: Upstream, spec: RewardSpec, row: dict[str, Any], answer: str) -> float:
    request = row["messages"][-1]["content"]
    text = _JUDGE.format(rubric=spec.rubric or "it answers the request.", asked=request, answer=answer)
    payload = {"model": spec.model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8}
    told = await upstream.chat(payload)
    found = _SCORE.search(str(told["choices"][0]["message"]["content"]))
    return min(1.0, float(found[0]) / _BEST) if found else 0.0
