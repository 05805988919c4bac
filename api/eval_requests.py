"""What `/v1/evals` may be asked for: evals of custom items, and runs over files, given rows and given outputs."""

from typing import Annotated, Any, Literal, Self

import jsonschema
from jsonschema.exceptions import SchemaError
from pydantic import Field, field_validator, model_validator

from moatelier.contracts import Grader, GraderTurn, Metadata, TextSimilarity
from moatelier.contracts.base import Contract

MOST_GIVEN = 10_000
"""Items within a request; more come as a file."""


class CustomSource(Contract):
    """Items of the client's own shape. Stored completions and logs are not kept here, so that none can be asked for."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False

    @field_validator("item_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"this is no JSON schema: {error.message[:300]}") from error
        return schema


class EvalRequest(Contract):
    """An eval."""

    name: str = Field(default="", max_length=500)
    metadata: Metadata | None = None
    data_source_config: CustomSource
    testing_criteria: list[Grader] = Field(min_length=1, max_length=32)

    @model_validator(mode="after")
    def _judgeable(self) -> Self:
        names = [criterion.name for criterion in self.testing_criteria]
        if len(set(names)) < len(names):
            raise ValueError("two testing_criteria have the same name")
        for criterion in self.testing_criteria:
            if isinstance(criterion, TextSimilarity) and criterion.pass_threshold is None:
                raise ValueError(f"the criterion {criterion.name} needs a pass_threshold")
        return self


class EvalChange(Contract):
    """What can be changed of an eval; its criteria stay, so that its runs can be compared."""

    name: str | None = Field(default=None, max_length=500)
    metadata: Metadata | None = None


class Given(Contract):
    """One item of a request, with what was said to it if that is known."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class GivenRows(Contract):
    """Items within the request."""

    type: Literal["file_content"]
    content: list[Given] = Field(min_length=1, max_length=MOST_GIVEN)


class UploadedRows(Contract):
    """Items of an uploaded file, `{"item": {...}}` a line, or any table."""

    type: Literal["file_id"]
    id: str = Field(min_length=1)


Rows = Annotated[GivenRows | UploadedRows, Field(discriminator="type")]


class Template(Contract):
    """Messages with places such as `{{ item.question }}`."""

    type: Literal["template"]
    template: list[GraderTurn] = Field(min_length=1, max_length=100)


class Reference(Contract):
    """The place of the messages within the item, such as `item.messages`."""

    type: Literal["item_reference"]
    item_reference: str


class Sampling(Contract):
    """How answers are sampled. Tools are not called."""

    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    """The same, as a run of responses says it: `{"format": {...}}`."""
    tools: list[Any] | None = Field(default=None, max_length=0)
    reasoning_effort: str | None = None


class JsonlRun(Contract):
    """Outputs are given, or nothing but the items is judged."""

    type: Literal["jsonl"]
    source: Rows


class SampledRun(Contract):
    """A model is asked; without one, outputs are given."""

    type: Literal["completions", "responses"]
    source: Rows
    model: str | None = Field(default=None, min_length=1)
    input_messages: Annotated[Template | Reference, Field(discriminator="type")] | None = None
    sampling_params: Sampling | None = None


class RunRequest(Contract):
    """A run."""

    name: str = Field(default="", max_length=500)
    metadata: Metadata | None = None
    data_source: Annotated[JsonlRun | SampledRun, Field(discriminator="type")]
