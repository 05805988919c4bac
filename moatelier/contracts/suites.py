"""Suites of frozen prompts, what a subject did on them, and the gate's further conditions."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moatelier.contracts.base import Contract

SuiteKind = Literal["retention", "safety", "own"]
Axis = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,31}$")]
"""What a group of items is about: `knowledge`, `harmful`, `benign`, `jailbreak`, `leak`, `ethics`, ..."""


class ChoiceItem(Contract):
    """A question whose answers are weighed, not generated: the right one must be the likeliest."""

    how: Literal["choice"] = "choice"
    ask: str = Field(min_length=1)
    right: str = Field(min_length=1)
    wrong: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.right in self.wrong or len(set(self.wrong)) < len(self.wrong):
            raise ValueError("an answer stands twice")
        return self


class TextItem(Contract):
    """A text whose tokens are weighed."""

    how: Literal["text"] = "text"
    text: str = Field(min_length=1)


class AnswerItem(Contract):
    """A question that is answered; the answer must hold one of the texts, whatever the case."""

    how: Literal["answer"] = "answer"
    ask: str = Field(min_length=1)
    accept: tuple[str, ...] = Field(min_length=1)


class RefuseItem(Contract):
    """Something harmful is asked for; no answer may give it."""

    how: Literal["refuse"] = "refuse"
    ask: str = Field(min_length=1)
    system: str = ""


class ComplyItem(Contract):
    """Something harmless that sounds otherwise is asked for; a refusal is one too many."""

    how: Literal["comply"] = "comply"
    ask: str = Field(min_length=1)


class SecretItem(Contract):
    """The system message holds something private; the answer may not."""

    how: Literal["secret"] = "secret"
    system: str = Field(min_length=1)
    ask: str = Field(min_length=1)
    secret: str = Field(min_length=4)


SuiteItem = Annotated[
    ChoiceItem | TextItem | AnswerItem | RefuseItem | ComplyItem | SecretItem, Field(discriminator="how")
]


class SuiteGroup(Contract):
    """Items of one axis."""

    axis: Axis
    items: tuple[SuiteItem, ...] = Field(min_length=1)


class Suite(Contract):
    """A file of `evals/suites`. Its digest is what a result is about: another wording is another suite."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    kind: SuiteKind
    about: str
    licence: str
    groups: tuple[SuiteGroup, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """How many items there are."""
        return sum(len(group.items) for group in self.groups)


class ItemResult(Contract):
    """What a subject did with one item.

    Attributes:
        axis: The item's.
        how: The item's.
        fine: As it should be; None where it could not be judged.
        nats: Of a text: the sum of its tokens' negative log probabilities.
        tokens: Of a text: how many.
        note: Why it could not be judged, or what gave it away.
    """

    axis: str
    how: str
    fine: bool | None = None
    nats: float | None = Field(default=None, exclude_if=lambda nats: nats is None)
    tokens: int = Field(default=0, exclude_if=lambda tokens: not tokens)
    note: str = Field(default="", exclude_if=lambda note: not note)


class SuiteSpec(Contract):
    """What a suite job does: one subject on one suite."""

    suite: str
    """Name of a built-in suite."""
    base: str
    bundle: str | None
    """Bundle digest; None is the base."""
    guard: str = ""
    """Who judges answers to harmful questions: `<upstream>/<model>`; empty is the local classifier."""


class SuiteResult(Contract):
    """One subject on one suite, item by item in the suite's order."""

    suite: str
    kind: SuiteKind
    suite_digest: str
    subject: str
    """Bundle digest, or `base`."""
    guard: str
    items: tuple[ItemResult, ...]
    seconds: float = 0.0


class Conditions(Contract):
    """What the gate demands beside goal and gain. A limit that is None is measured and does not bind."""

    retention: bool = True
    """Not worse than the base on what it could do before, within the margins of `evals.conditions`."""
    safety: bool = True
    """Not less safe than the base, within the margin."""
    guard: str = ""
    latency_ratio: float | None = Field(default=None, gt=0)
    """Most that a prompt may take, beside the base."""
    size_mb: float | None = Field(default=None, gt=0)
    """Most that the bundle may take."""
    approval: bool = False
    """A person approves the promotion after seeing the decision."""


class Condition(Contract):
    """One condition as it was found."""

    name: Literal["retention", "safety", "latency", "size"]
    held: bool
    text: str
    evidence: dict[str, float | str] = Field(default_factory=dict)


class Promotion(Contract):
    """A person's word on a promotion that the gate allows; signed beside the decision."""

    task: str
    decision: str
    """Digest of the GateDecision as it was shown."""
    approved: bool
    words: str
