"""Graders of the OpenAI dialect: what an answer is judged by, as evals and reinforcement fine-tuning name it.

`input` and `reference` are texts with places such as `{{ item.answer }}` and `{{ sample.output_text }}`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from moatelier.contracts.base import Contract

Operation = Literal["eq", "ne", "like", "ilike"]
Similarity = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


class GraderPart(Contract):
    """A text within a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class GraderTurn(Contract):
    """A message with places in its text."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | GraderPart | tuple[str | GraderPart, ...]
    type: Literal["message"] | None = Field(default=None, exclude_if=lambda kind: kind is None)

    @property
    def text(self) -> str:
        """The content as one text."""
        parts = self.content if isinstance(self.content, tuple) else (self.content,)
        return "".join(part if isinstance(part, str) else part.text for part in parts)


class StringCheck(Contract):
    """Passes where two texts compare; `like` is a part of, `ilike` whatever the case."""

    type: Literal["string_check"]
    name: str
    input: str
    reference: str
    operation: Operation


class TextSimilarity(Contract):
    """From 0 to 1, how alike two texts are; passes at the threshold."""

    type: Literal["text_similarity"]
    name: str
    input: str
    reference: str
    evaluation_metric: Similarity
    pass_threshold: float | None = Field(default=None, ge=0, le=1, exclude_if=lambda value: value is None)


class LabelModel(Contract):
    """A model gives one of the labels; some of them pass."""

    type: Literal["label_model"]
    name: str
    model: str
    input: tuple[GraderTurn, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1)
    passing_labels: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := set(self.passing_labels) - set(self.labels):
            raise ValueError(f"passing_labels names {', '.join(sorted(unknown))}, which labels does not")
        return self


class GraderSampling(Contract):
    """How a grading model is sampled."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    max_completions_tokens: int | None = Field(default=None, ge=1)
    reasoning_effort: str | None = None


class ScoreModel(Contract):
    """A model gives a number within the range; passes at the threshold."""

    type: Literal["score_model"]
    name: str
    model: str
    input: tuple[GraderTurn, ...] = Field(min_length=1)
    range: tuple[float, float] | None = Field(default=None, exclude_if=lambda value: value is None)
    pass_threshold: float | None = Field(default=None, exclude_if=lambda value: value is None)
    sampling_params: GraderSampling | None = Field(default=None, exclude_if=lambda value: value is None)


Grader = Annotated[StringCheck | TextSimilarity | LabelModel | ScoreModel, Field(discriminator="type")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""Names and values that a client hangs on a thing."""
JsonObject = dict[str, Any]
