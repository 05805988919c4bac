"""What `POST /v1/fine_tuning/jobs` may say, and what it means as an order."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from moatelier.contracts import Fixed, Metadata, Order, RewardSpec, StringCheck, TextSimilarity
from moatelier.contracts.base import Contract
from moatelier.errors import InvalidRequest
from moatelier.settings import settings
from modalities.text.similarity import MEASURES

GOAL, BUDGET = "moatelier_goal", "moatelier_budget"
"""Metadata of ours: a goal and a budget in plain words, which the dialect has no field for."""
_ITEM = re.compile(r"\{\{\s*item\.(\w+)\s*\}\}")
_SAMPLE = re.compile(r"\{\{\s*sample\.output_text\s*\}\}")

Auto = Literal["auto"]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
Multiplier = Auto | Annotated[float, Field(gt=0, le=100)]


class Hyperparameters(Contract):
    """Of every method."""

    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"
    n_epochs: Epochs = "auto"


class DpoHyperparameters(Hyperparameters):
    """With how strongly the base is held on to."""

    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    """The further ones may be `auto` alone: the trainer decides about them."""

    compute_multiplier: Auto = "auto"
    eval_interval: Auto = "auto"
    eval_samples: Auto = "auto"
    reasoning_effort: Literal["default"] | None = None


class Supervised(Contract):
    """Configuration of the method `supervised`."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(Contract):
    """Configuration of the method `dpo`."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Reinforcement(Contract):
    """Configuration of the method `reinforcement`."""

    grader: Annotated[StringCheck | TextSimilarity, Field(discriminator="type")]
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class Method(Contract):
    """The method with its configuration."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


class JobRequest(Contract):
    """The body of the request."""

    model: str = Field(min_length=1)
    training_file: str = Field(min_length=1)
    validation_file: str | None = None
    method: Method = Method(type="supervised")
    hyperparameters: Hyperparameters | None = None
    """Of the method `supervised`, where older clients put them."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    metadata: Metadata | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    """None: what is trained here is told to nobody else."""


def order_of(asked: JobRequest) -> Order:
    """What a request asks for.

    Raises:
        InvalidRequest: A base that is not served, or a grader that cannot reward a training.
    """
    if asked.model not in settings().text_bases:
        raise InvalidRequest(
            f"There is no base {asked.model} here that can be tuned.",
            where="model",
            remedy=f"Use one of {', '.join(settings().text_bases)}; MOATELIER_BASE serves another.",
        )
    told, metadata = parameters(asked), asked.metadata or {}
    fixed, reference = Fixed(**_fixed(told)), None
    if asked.method.type == "reinforcement":
        if asked.method.reinforcement is None:
            raise InvalidRequest("No grader is named.", where="method.reinforcement", remedy="Name a grader.")
        reward, reference = reward_of(asked.method.reinforcement.grader)
        fixed = fixed.model_copy(update={"rewards": (reward,)})
    return Order(
        model=asked.model,
        method=asked.method.type,
        suffix=asked.suffix,
        seed=asked.seed or 0,
        goal=metadata.get(GOAL, ""),
        budget=metadata.get(BUDGET, ""),
        fixed=fixed,
        reference=reference,
    )


def parameters(asked: JobRequest) -> Hyperparameters:
    """The hyperparameters that count."""
    configured = getattr(asked.method, asked.method.type)
    return configured.hyperparameters if configured else asked.hyperparameters or Hyperparameters()


def _fixed(told: Hyperparameters) -> dict[str, Any]:
    names = {"n_epochs": "epochs", "batch_size": "batch_rows", "learning_rate_multiplier": "rate_multiplier"}
    names["beta"] = "beta"
    values = told.model_dump()
    return {ours: values[theirs] for theirs, ours in names.items() if values.get(theirs, "auto") != "auto"}


def reward_of(grader: StringCheck | TextSimilarity) -> tuple[RewardSpec, str]:
    """A grader as a reward, and the column that answers are compared with.

    Raises:
        InvalidRequest: It does not compare the whole answer with one column, or by something no training can use.
    """
    column = _ITEM.fullmatch(grader.reference.strip())
    if not _SAMPLE.fullmatch(grader.input.strip()) or not column:
        raise InvalidRequest(
            "A training is rewarded by comparing the answer with one column.",
            where="method.reinforcement.grader",
            remedy='Write "input": "{{sample.output_text}}" and "reference": "{{item.<column>}}".',
        )
    if isinstance(grader, StringCheck):
        return RewardSpec(kind="string_check", operation=grader.operation), column[1]
    if grader.evaluation_metric not in MEASURES:
        raise InvalidRequest(
            f"The measure {grader.evaluation_metric} cannot reward a training.",
            where="method.reinforcement.grader.evaluation_metric",
            remedy=f"Use one of {', '.join(MEASURES)}.",
        )
    return RewardSpec(kind="text_similarity", measure=grader.evaluation_metric), column[1]


def in_words(asked: JobRequest) -> str:
    """The request in a sentence, for the list of tasks."""
    known = {name: value for name, value in parameters(asked).model_dump().items() if value not in ("auto", None)}
    settings_ = "".join(f", {name} {value}" for name, value in known.items())
    return f"Fine-tune {asked.model} on {asked.training_file} ({asked.method.type}{settings_})"
