"""What an optional planner endpoint may propose, and how little of it is believed.

The endpoint reads the same words as the grammar. It may fill only the fields below, each with a quote from the
person's own words. It never overrides what the grammar read, and it never sets a goal: a goal it proposes becomes the
first choice of the question. A column it proposes counts only where the file's own profile points there too.
"""

import json
import re
from typing import Any, Literal

from pydantic import Field, ValidationError

from agents.words import NUMBER, normalise
from moatelier.contracts import Contract, Kind, MetricName


class ProposedGoal(Contract):
    """A measure and the share that must be reached, with the words they rest on."""

    metric: MetricName
    target: float = Field(gt=0, le=1)
    quote: str = Field(min_length=1, max_length=300)


class ProposedBudget(Contract):
    """Limits on training time (seconds over all trials) and on the number of trials, with the words they rest on."""

    seconds: float | None = Field(default=None, gt=0, le=7 * 86400)
    trials: int | None = Field(default=None, ge=1, le=20)
    quote: str = Field(min_length=1, max_length=300)


class ProposedColumns(Contract):
    """Column names exactly as they stand in the file."""

    input: str | None = Field(default=None, max_length=200)
    target: str | None = Field(default=None, max_length=200)
    messages: str | None = Field(default=None, max_length=200)


class ProposedText(Contract):
    """A value from a fixed set or a short name, with the words it rests on."""

    value: str = Field(min_length=1, max_length=80)
    quote: str = Field(min_length=1, max_length=300)


class ProposedKind(ProposedText):
    """Whether rows have one label each or are conversations."""

    value: Kind


class ProposedPrivate(ProposedText):
    """What happens to private data."""

    value: Literal["redact", "reject", "allow"]


class ProposedTooLong(ProposedText):
    """What happens to rows that do not fit."""

    value: Literal["refuse", "drop", "truncate"]


class Proposal(Contract):
    """A reading of the person's words; leave out every field they say nothing about."""

    goal: ProposedGoal | None = None
    budget: ProposedBudget | None = None
    columns: ProposedColumns | None = None
    kind: ProposedKind | None = None
    private: ProposedPrivate | None = None
    too_long: ProposedTooLong | None = None
    method: ProposedText | None = None
    base: ProposedText | None = None
    name: ProposedText | None = None


def proposal_schema() -> dict[str, Any]:
    """The JSON schema that the planner endpoint is asked to answer in."""
    return Proposal.model_json_schema()


def accept(proposal: object) -> dict[str, Any] | str:
    """Check an endpoint's answer.

    Args:
        proposal: The answer as text, perhaps in a Markdown fence, or as a decoded JSON value.

    Returns:
        The proposal for `plan`, or the error text for one repair turn.
    """
    if isinstance(proposal, (str, bytes)):
        text = proposal.decode(errors="replace") if isinstance(proposal, bytes) else proposal
        fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.S)
        try:
            proposal = json.loads(fenced[1] if fenced else text)
        except (ValueError, RecursionError) as error:
            return f"The answer is not JSON: {error}. Answer with one JSON object only."
    if not isinstance(proposal, dict):
        return f"The answer must be a JSON object, not {type(proposal).__name__}."
    try:
        return Proposal.model_validate(proposal).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:8]]
        return "These fields are wrong: " + "; ".join(problems)


def is_quoted(quote: str, words: str, *, with_number: bool = False) -> bool:
    """Whether a quote stands in the person's words, and holds a number where the value is one."""

    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", normalise(text)).casefold().strip(" .\"'")

    if not plain(quote) or not re.search(rf"(?<!\w){re.escape(plain(quote))}(?!\w)", plain(words)):
        return False
    return not with_number or bool(
        re.search(rf"(?<!\w)(?:{NUMBER}|half|once|twice|single|hour)(?!\w)|\d", plain(quote))
    )
