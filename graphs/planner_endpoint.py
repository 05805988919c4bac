"""The optional planner endpoint: any OpenAI-compatible model may propose a plan's fields.

It is asked once with a JSON schema, gets one repair turn, and is then ignored. Nothing here can fail a task: an
endpoint that is down, slow, lies or talks junk leaves the deterministic planner as it was.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from openai import OpenAI, OpenAIError

from agents import planner
from moatelier.contracts import DataProfile
from moatelier.settings import settings

log = logging.getLogger("moatelier.planner")


def propose(messages: Sequence[str], profile: DataProfile) -> dict[str, Any] | None:
    """The endpoint's valid proposal, or None when there is no endpoint or nothing valid came back."""
    if not settings().planner_url:
        return None
    key = settings().planner_key
    endpoint = OpenAI(
        base_url=settings().planner_url,
        api_key=key.get_secret_value() if key else "none",
        timeout=settings().planner_timeout_s,
        max_retries=0,
    )
    talk: list[Any] = [
        {
            "role": "system",
            "content": f"Answer with one JSON object of this schema: {json.dumps(planner.proposal_schema())}",
        },
        {"role": "user", "content": _question(messages, profile)},
    ]
    try:
        with endpoint:
            return _ask(endpoint, talk) or _ask(endpoint, talk)
    except OpenAIError as error:
        log.warning("the planner endpoint failed (%s); the plan goes on without it", type(error).__name__)
        return None


def _question(messages: Sequence[str], profile: DataProfile) -> str:
    columns = [{"name": column.name, "distinct": column.unique} for column in profile.columns]
    return json.dumps({"request": list(messages), "file": profile.name, "rows": profile.rows, "columns": columns})


def _ask(endpoint: OpenAI, talk: list[Any]) -> dict[str, Any] | None:
    """One turn; on an invalid answer the reason is added to the talk, which makes the next turn the repair."""
    answer = endpoint.chat.completions.create(
        model=settings().planner_model, messages=talk, temperature=0, response_format={"type": "json_object"}
    )
    text = (answer.choices[0].message.content or "") if answer.choices else ""
    try:
        accepted = planner.accept(json.loads(text))
    except ValueError:
        accepted = "This is no JSON object."
    if isinstance(accepted, dict):
        return accepted
    log.info("the planner endpoint's proposal was refused: %s", accepted)
    talk += [{"role": "assistant", "content": text}, {"role": "user", "content": accepted}]
    return None
