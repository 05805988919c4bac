"""`/v1/fine_tuning/alpha/graders`: try a grader before a training or an eval rests on it."""

import time
from typing import Any

from fastapi import APIRouter, Request

from api.auth import Project
from api.bodies import STRICT
from api.limits import METER
from api.services import Shared
from evals.graders import Messages, graded
from graphs.eval_items import shown
from graphs.served_models import ServedModels
from moatelier.contracts import Grader
from moatelier.contracts.base import Contract
from moatelier.errors import DataError, MoatelierError, UpstreamError

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", dependencies=[STRICT])
ERRORS = (
    "formula_parse_error",
    "invalid_variable_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)


class Validation(Contract):
    """A grader to be looked at."""

    grader: Grader


class Trial(Contract):
    """A grader with what it shall grade."""

    grader: Grader
    model_sample: str
    item: dict[str, Any] = {}


@router.post("/validate")
def validate(project: Project, body: Validation) -> dict[str, Any]:
    """The grader as it was understood; what is none is refused by its field."""
    return {"grader": body.grader.model_dump(mode="json", exclude_none=True)}


@router.post("/run")
async def run(request: Request, project: Project, shared: Shared, body: Trial) -> dict[str, Any]:
    """Grade one sample; what kept it from being graded is told in the answer."""
    models = ServedModels(project, shared.answers, shared.backend.upstream)
    known = {"item": body.item, "sample": shown({"output_text": body.model_sample})}
    meter = request.scope.get(METER)
    begun, failed, reward, tokens = time.perf_counter(), "", 0.0, dict[str, int]()

    async def ask(model: str, messages: Messages, fields: Any) -> str:
        said = await models.ask(model, messages, fields)
        tokens[model] = tokens.get(model, 0) + said.tokens
        if meter is not None:
            meter.tell(sum(tokens.values()))
        return said.text

    details = None
    try:
        reward = (await graded(body.grader, known, ask, models.embed)).score
    except MoatelierError as error:
        failed, details = _named(error), str(error)
    errors = dict.fromkeys(ERRORS, False) | ({failed: True} if failed else {})
    metadata = {
        "name": body.grader.name,
        "type": body.grader.type,
        "scores": {} if failed else {body.grader.name: reward},
        "execution_time": round(time.perf_counter() - begun, 4),
        "errors": errors | {"model_grader_server_error_details": details},
        "token_usage": sum(tokens.values()) or None,
        "sampled_model_name": next(iter(tokens), None),
    }
    return {
        "reward": reward,
        "metadata": metadata,
        "sub_rewards": {},
        "model_grader_token_usage_per_model": tokens,
    }


def _named(error: MoatelierError) -> str:
    """The dialect's name for what went wrong."""
    if isinstance(error, DataError):
        return "invalid_variable_error"
    return "model_grader_parse_error" if type(error) is UpstreamError else "model_grader_server_error"
