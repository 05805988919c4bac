"""Which scope opens which route, all in one place. A route that has no line here keeps the app from starting.

The guard (guard.py) holds every request to its line before a byte of its body is read. A key's project is not a matter
of this table: every row that a route can reach is looked up with the key's own project.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from moatelier.scopes import Scope


@dataclass(frozen=True)
class Right:
    """What a route asks of a request.

    Attributes:
        scopes: One of them must be the key's; an admin's key opens all routes. None: open to everybody.
        changes: It changes something, so that each success is a line of the audit log.
        body: An `upload` may be large and take long; everything else is JSON.
    """

    scopes: tuple[Scope, ...] | None
    changes: bool = False
    body: Literal["json", "upload"] = "json"


OPEN = Right(None)
INFER = Right(("infer",))
READ = Right(("read", "train"))
LOOK = Right(("infer", "read", "train"))
"""What both who asks models and who looks after them must see."""
OPINION = Right(("infer",), changes=True)
TRAIN = Right(("train",), changes=True)
TRY = Right(("train",))
"""What is for those who train, and changes nothing."""
ADMIN = Right(("admin",))
MANAGE = Right(("admin",), changes=True)


def _upload(right: Right) -> Right:
    return replace(right, body="upload")


RIGHTS: Mapping[str, Right] = {
    "GET /": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /openapi.json": OPEN,
    "HEAD /openapi.json": OPEN,
    # asking models
    "POST /v1/chat/completions": INFER,
    "POST /v1/classify": INFER,
    "POST /v1/embeddings": INFER,
    "POST /v1/audio/transcriptions": _upload(INFER),
    "POST /v1/audio/translations": _upload(INFER),
    "POST /v1/feedback": OPINION,
    "GET /v1/models": LOOK,
    "GET /v1/models/{model:path}": LOOK,
    # files
    "POST /v1/files": _upload(TRAIN),
    "GET /v1/files": READ,
    "GET /v1/files/{file_id}": READ,
    "GET /v1/files/{file_id}/content": READ,
    "DELETE /v1/files/{file_id}": TRAIN,
    # conversations
    "POST /threads": TRAIN,
    "POST /threads/search": READ,
    "GET /threads/{thread_id}": READ,
    "PATCH /threads/{thread_id}": TRAIN,
    "DELETE /threads/{thread_id}": TRAIN,
    "GET /threads/{thread_id}/state": READ,
    "POST /threads/{thread_id}/runs": TRAIN,
    "POST /threads/{thread_id}/runs/stream": TRAIN,
    "POST /threads/{thread_id}/runs/wait": TRAIN,
    "GET /threads/{thread_id}/runs": READ,
    "GET /threads/{thread_id}/runs/{run_id}": READ,
    "GET /threads/{thread_id}/runs/{run_id}/join": READ,
    "GET /threads/{thread_id}/runs/{run_id}/stream": READ,
    "POST /threads/{thread_id}/runs/{run_id}/cancel": TRAIN,
    # tasks and adapters
    "GET /tasks": READ,
    "GET /tasks/{task_id}": READ,
    "POST /tasks/{task_id}/cancel": TRAIN,
    "GET /tasks/{task_id}/events": READ,
    "GET /tasks/{task_id}/report": READ,
    "GET /tasks/{task_id}/report/{name:path}": READ,
    "GET /adapters": READ,
    "GET /adapters/{name:path}": READ,
    "GET /adapters/{name:path}/card": READ,
    "GET /adapters/{name:path}/export": READ,
    "POST /adapters/{name:path}/export": TRAIN,
    "GET /adapters/{name:path}/export/{run_id}": READ,
    "GET /adapters/{name:path}/export/{run_id}/files": READ,
    "POST /adapters/{name:path}/route": TRAIN,
    "GET /adapters/{name:path}/route/{run_id}": READ,
    "POST /adapters/mix": TRAIN,
    "GET /adapters/mix/{run_id}": READ,
    # recipes
    "GET /v1/moa": READ,
    "POST /v1/moa": TRAIN,
    "GET /v1/moa/{name}": READ,
    "GET /v1/moa/{name}/decision": READ,
    "POST /v1/moa/{name}/disable": TRAIN,
    "POST /v1/moa/{name}/try": TRY,
    "POST /v1/moa/{name}/evaluations": TRAIN,
    "POST /v1/moa/{name}/candidates": TRAIN,
    # rollouts and alerts
    "POST /v1/rollouts": TRAIN,
    "GET /v1/rollouts": READ,
    "GET /v1/rollouts/{rollout_id}": READ,
    "POST /v1/rollouts/{rollout_id}/stop": TRAIN,
    "POST /v1/rollouts/{rollout_id}/promote": TRAIN,
    "POST /v1/rollouts/{rollout_id}/revert": TRAIN,
    "GET /v1/lessons": READ,
    "POST /v1/lessons/approve": TRAIN,
    "POST /v1/lessons/reject": TRAIN,
    "GET /v1/retrains": READ,
    "POST /v1/retrains": TRAIN,
    "GET /v1/retrains/{retrain_id}": READ,
    "GET /v1/triggers": READ,
    "PUT /v1/triggers/{alias}": TRAIN,
    "GET /v1/triggers/{alias}": READ,
    "DELETE /v1/triggers/{alias}": TRAIN,
    "GET /v1/monitors": READ,
    "POST /v1/monitors/{model:path}/reset": TRAIN,
    "GET /v1/alerts": READ,
    "POST /v1/alerts/{alert_id}/seen": TRAIN,
    # uploads in parts, trainings and evals in OpenAI's dialect
    "POST /v1/uploads": TRAIN,
    "GET /v1/uploads/{upload_id}": READ,
    "POST /v1/uploads/{upload_id}/parts": _upload(TRAIN),
    "POST /v1/uploads/{upload_id}/complete": TRAIN,
    "POST /v1/uploads/{upload_id}/cancel": TRAIN,
    "POST /v1/fine_tuning/jobs": TRAIN,
    "GET /v1/fine_tuning/jobs": READ,
    "GET /v1/fine_tuning/jobs/{job_id}": READ,
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": TRAIN,
    "POST /v1/fine_tuning/jobs/{job_id}/pause": TRAIN,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": TRAIN,
    "GET /v1/fine_tuning/jobs/{job_id}/events": READ,
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": READ,
    "POST /v1/fine_tuning/alpha/graders/run": TRY,
    "POST /v1/fine_tuning/alpha/graders/validate": TRY,
    "POST /imports/openai": TRAIN,
    "POST /imports/openai/files/{file_id}": _upload(TRAIN),
    "POST /v1/evals": TRAIN,
    "GET /v1/evals": READ,
    "GET /v1/evals/{eval_id}": READ,
    "POST /v1/evals/{eval_id}": TRAIN,
    "DELETE /v1/evals/{eval_id}": TRAIN,
    "POST /v1/evals/{eval_id}/runs": TRAIN,
    "GET /v1/evals/{eval_id}/runs": READ,
    "GET /v1/evals/{eval_id}/runs/{run_id}": READ,
    "POST /v1/evals/{eval_id}/runs/{run_id}": TRAIN,  # cancels it
    "POST /v1/evals/{eval_id}/runs/{run_id}/cancel": TRAIN,
    "DELETE /v1/evals/{eval_id}/runs/{run_id}": TRAIN,
    "GET /v1/evals/{eval_id}/runs/{run_id}/output_items": READ,
    "GET /v1/evals/{eval_id}/runs/{run_id}/output_items/{item_id}": READ,
    "GET /v1/chat/completions": INFER,
    "GET /v1/chat/completions/{completion_id}": INFER,
    "POST /v1/chat/completions/{completion_id}": INFER,
    "DELETE /v1/chat/completions/{completion_id}": INFER,
    "GET /v1/chat/completions/{completion_id}/messages": INFER,
    "POST /v1/audio/speech": INFER,
    "POST /v1/completions": INFER,
    "POST /v1/responses": INFER,
    "GET /v1/responses/{response_id}": INFER,
    "DELETE /v1/responses/{response_id}": OPINION,
    "GET /v1/responses/{response_id}/input_items": INFER,
    "POST /v1/responses/compact": INFER,
    "POST /v1/responses/input_tokens": INFER,
    "POST /v1/responses/{response_id}/cancel": INFER,
    "DELETE /v1/models/{model:path}": TRAIN,
    # the rest of LangGraph's dialect
    "POST /threads/count": READ,
    "POST /threads/prune": TRAIN,
    "POST /threads/{thread_id}/copy": TRAIN,
    "GET /threads/{thread_id}/state/{checkpoint_id}": READ,
    "POST /threads/{thread_id}/state/checkpoint": READ,
    "POST /threads/{thread_id}/state": TRAIN,
    "POST /threads/{thread_id}/history": READ,
    "GET /threads/{thread_id}/history": READ,
    "GET /threads/{thread_id}/stream": READ,
    "POST /threads/{thread_id}/commands": TRAIN,
    "POST /threads/{thread_id}/stream/events": READ,
    "DELETE /threads/{thread_id}/runs/{run_id}": TRAIN,
    "POST /threads/{thread_id}/runs/crons": TRAIN,
    "POST /runs": TRAIN,
    "POST /runs/stream": TRAIN,
    "POST /runs/wait": TRAIN,
    "POST /runs/batch": TRAIN,
    "POST /runs/cancel": TRAIN,
    "POST /runs/crons": TRAIN,
    "PATCH /runs/crons/{cron_id}": TRAIN,
    "DELETE /runs/crons/{cron_id}": TRAIN,
    "POST /runs/crons/search": READ,
    "POST /runs/crons/count": READ,
    "POST /assistants/search": READ,
    "POST /assistants/count": READ,
    "GET /assistants/{assistant_id}": READ,
    "GET /assistants/{assistant_id}/graph": READ,
    "GET /assistants/{assistant_id}/schemas": READ,
    "GET /assistants/{assistant_id}/subgraphs": READ,
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": READ,
    "POST /assistants/{assistant_id}/versions": READ,
    "POST /assistants/{assistant_id}/latest": TRAIN,
    "POST /assistants": TRAIN,
    "PATCH /assistants/{assistant_id}": TRAIN,
    "DELETE /assistants/{assistant_id}": TRAIN,
    "GET /store/items": READ,
    "PUT /store/items": TRAIN,
    "DELETE /store/items": TRAIN,
    "POST /store/items/search": READ,
    "POST /store/namespaces": READ,
    "GET /metrics": READ,
    # keys and projects
    "GET /v1/admin/keys": ADMIN,
    "POST /v1/admin/keys": MANAGE,
    "POST /v1/admin/keys/{key_id}/rotate": MANAGE,
    "DELETE /v1/admin/keys/{key_id}": MANAGE,
    "GET /v1/admin/projects": ADMIN,
    "POST /v1/admin/projects": MANAGE,
    "GET /v1/admin/audit": ADMIN,
}


@dataclass(frozen=True)
class Line:
    """A route with its right; `name` is its key in `RIGHTS`."""

    name: str
    pattern: re.Pattern[str]
    right: Right


class Table:
    """The routes of an app in the order in which it tries them, each with its right.

    Raises:
        LookupError: A route has no right.
    """

    def __init__(self, app: FastAPI) -> None:
        self.lines: list[Line] = []
        self._by_start: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for route in iter_route_contexts(app.routes):
            for method in sorted(route.methods or ()):
                name = f"{method} {route.path}"
                if name not in RIGHTS:
                    raise LookupError(f"The route {name} has no line in api/rights.py.")
                line = Line(name, route.path_regex, RIGHTS[name])
                self.lines.append(line)
                self._by_start[method, _start(str(route.path))].append(line)

    def find(self, method: str, path: str) -> Line | None:
        """The line of the route that the app will choose; None where it will choose none."""
        for line in self._by_start.get((method, _start(path)), ()):
            if line.pattern.match(path):
                return line
        return None


def _start(path: str) -> str:
    """The first part of a path, which is fixed in every route."""
    return path.split("/", 2)[1] if path.startswith("/") else path
