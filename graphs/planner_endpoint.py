"""The optional planner endpoint: any OpenAI-compatible model may propose a plan's fields.

It is asked once with a JSON schema, gets one repair turn, and is then ignored. Nothing here can fail a task: an
endpoint that is down, slow, lies or talks junk leaves the deterministic planner as it was.
"""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI, OpenAIError

from agents.planner import accept, proposal_schema
from moatelier.contracts import AnyProfile, DataProfile
from moatelier.settings import settings

log = logging.getLogger("moatelier.planner")


def propose(messages: Sequence[str], profile: AnyProfile) -> dict[str, Any] | None:
    """The endpoint's valid proposal, or None when there is no endpoint or nothing valid came back in time."""
    if not settings().planner_url:
        return None
    # The client's own timeout is per read, so a trickle would hold us for ever: the deadline is on the whole.
    pool = ThreadPoolExecutor(1, thread_name_prefix="planner-endpoint")
    try:
        return pool.submit(_talk, messages, profile).result(settings().planner_timeout_s)
    except (OpenAIError, TimeoutError, ValueError) as error:
        log.warning("the planner endpoint failed (%s); the plan goes on without it", type(error).__name__)
        return None
    finally:
        pool.shutdown(wait=False)


def _talk(messages: Sequence[str], profile: AnyProfile) -> dict[str, Any] | None:
    key = settings().planner_key
    schema = json.dumps(proposal_schema())
    talk: list[Any] = [
        {"role": "system", "content": f"Answer with one JSON object of this schema: {schema}"},
        {"role": "user", "content": _question(messages, profile)},
    ]
    with OpenAI(
        base_url=settings().planner_url,
        api_key=key.get_secret_value() if key else "none",
        timeout=settings().planner_timeout_s,
        max_retries=0,
    ) as endpoint:
        first = _ask(endpoint, talk)
        return first if first is not None else _ask(endpoint, talk)


def _question(messages: Sequence[str], profile: AnyProfile) -> str:
    # Names and counts only: a person's rows are not sent to an endpoint.
    if isinstance(profile, DataProfile):
        columns: list[dict[str, Any]] = [{"name": each.name, "distinct": each.unique} for each in profile.columns]
    else:
        columns = [{"name": name} for name in profile.headers]
    return json.dumps({"request": list(messages), "file": profile.name, "rows": profile.rows, "columns": columns})


def _ask(endpoint: OpenAI, talk: list[Any]) -> dict[str, Any] | None:
    """One turn; on an invalid answer the reason is added to the talk, which makes the next turn the repair."""
    answer = endpoint.chat.completions.create(
        model=settings().planner_model, messages=talk, temperature=0, response_format={"type": "json_object"}
    )
    choices = getattr(answer, "choices", None)  # an endpoint that lies may send anything
    text = (choices[0].message.content or "") if choices else ""
    try:
        accepted = accept(json.loads(text))
    except ValueError:
        accepted = "This is no JSON object."
    if isinstance(accepted, dict):
        return accepted
    log.info("the planner endpoint's proposal was refused: %s", accepted)
    talk += [{"role": "assistant", "content": text}, {"role": "user", "content": accepted}]
    return None
