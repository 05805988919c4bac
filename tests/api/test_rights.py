"""The rights matrix: every route of the app, asked with no key, and with a key of each scope of its own and of
another project."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.rights import RIGHTS, Line, Table
from graphs import jobs
from moatelier.scopes import SCOPES, Scope
from store import audit, keys, tasks
from tests.api.conftest import Service
from tests.api.world import ENDLESS, SHARED, Things, example, hollow

LINES = Table(create_app()).lines
WITHOUT_ENGINE = {
    # The fake engine answers chats and embeddings by its base; these get as far as it, or as a check of the model.
    "POST /v1/classify": (502,),
    "POST /v1/embeddings": (200,),
    "POST /v1/audio/transcriptions": (400,),
    "POST /v1/audio/translations": (400,),
    "GET /readyz": (503,),  # no worker runs here
    # Nothing has been trained, so there is nothing to look at.
    "GET /adapters/{name:path}/card": (404,),
    "GET /adapters/{name:path}/route/{run_id}": (200,),
    "GET /adapters/{name:path}/export/{run_id}/files": (400,),
    "GET /adapters/mix/{run_id}": (404,),
    "GET /v1/moa/{name}/decision": (404,),
    "POST /v1/moa/{name}/evaluations": (400, 404),
    "POST /v1/moa/{name}/candidates": (400, 404),
    "POST /v1/rollouts/{rollout_id}/revert": (400,),  # it was not promoted
    "POST /v1/retrains": (400,),  # nobody has taught anything
    # Refused to everybody.
    "DELETE /v1/models/{model:path}": (400,),
    "GET /v1/chat/completions": (400,),
    "GET /v1/chat/completions/{completion_id}": (400,),
    "POST /v1/chat/completions/{completion_id}": (400,),
    "DELETE /v1/chat/completions/{completion_id}": (400,),
    "GET /v1/chat/completions/{completion_id}/messages": (400,),
    "POST /v1/audio/speech": (400,),
    "POST /v1/responses/compact": (400,),
    "POST /v1/responses/input_tokens": (400,),
    "POST /v1/responses/{response_id}/cancel": (400,),
    "POST /assistants": (400,),
    "PATCH /assistants/{assistant_id}": (400,),
    "DELETE /assistants/{assistant_id}": (400,),
    "GET /store/items": (400,),
    "PUT /store/items": (400,),
    "DELETE /store/items": (400,),
    "POST /store/items/search": (400,),
    "POST /store/namespaces": (400,),
    "POST /threads/{thread_id}/state": (400,),
    "POST /threads/{thread_id}/commands": (400,),
    "POST /threads/{thread_id}/stream/events": (400,),
    # Not in the state in which they would succeed.
    "POST /v1/uploads/{upload_id}/complete": (400,),
    "POST /v1/fine_tuning/jobs/{job_id}/pause": (200, 400),
    "POST /v1/fine_tuning/jobs/{job_id}/resume": (400,),
    "POST /imports/openai": (400,),
    "POST /imports/openai/files/{file_id}": (200, 400),  # the id is taken: of one's own it is given again
}
"""Answers, other than success, of routes that were let through."""
ELSEWHERE = {
    "POST /imports/openai/files/{file_id}": (400,),  # an id that is brought along may be taken
    "POST /v1/responses/{response_id}/cancel": (400,),  # refused whatever is named
}
"""Answers, other than 404, about another project's things."""


@pytest.fixture
def doors(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client without a key; conversations are played, other runs stay pending."""

    def submit(run_id: str) -> None:
        if tasks.find_thread(tasks.find_run(run_id).thread).graph == "conversation":
            service.worker.submit_run(run_id)

    monkeypatch.setattr(jobs, "submit_run", submit)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


def ask(
    doors: httpx.Client, line: Line, things: Things | None, secret: str | None
) -> tuple[httpx.Response, dict[str, str]]:
    """The answer and the ids in the path; without things it is about nothing, for whoever is refused before."""
    method, path, request, ids = hollow(line.name) if things is None else example(line.name, things)
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    if line.name not in ENDLESS:
        return doors.request(method, path, headers=headers, **request), ids
    with doors.stream(method, path, headers=headers, **request) as answer:
        first = b"".join(islice(answer.iter_raw(), 1)) if answer.is_success else answer.read()
        return httpx.Response(answer.status_code, headers=answer.headers, content=first), ids


def opens(line: Line, scope: str) -> bool:
    return line.right.scopes is None or scope == "admin" or scope in line.right.scopes


def test_a_new_route_needs_a_line() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/new", lambda: None, methods=["GET"])
    with pytest.raises(LookupError, match="GET /new"):
        Table(app)


def test_no_line_is_left_of_a_route_that_is_gone() -> None:
    assert set(RIGHTS) == {line.name for line in LINES}


def test_the_table_chooses_the_route_that_the_app_chooses() -> None:
    table = Table(create_app())
    for path, name in {
        "/adapters/mix/run-1": "GET /adapters/mix/{run_id}",
        "/adapters/a/b/export/run-1/files": "GET /adapters/{name:path}/export/{run_id}/files",
        "/adapters/a/b": "GET /adapters/{name:path}",
        "/v1/models/ft:a/b:c": "GET /v1/models/{model:path}",
    }.items():
        found = table.find("GET", path)
        assert found is not None and found.name == name
    assert table.find("GET", "/nowhere") is None and table.find("GET", "") is None


def test_without_a_key_only_open_routes_answer(doors: httpx.Client) -> None:
    wrong: list[Any] = []
    for line in LINES:
        answer, _ = ask(doors, line, None, None)
        if (answer.status_code == 401) != (line.right.scopes is not None):
            wrong.append((line.name, answer.status_code))
    assert not wrong


@pytest.mark.parametrize("scope", SCOPES)
def test_the_matrix(doors: httpx.Client, scope: Scope) -> None:
    mine, other = Things("default"), Things("other")
    own, foreign = keys.create("default", scope, scopes=[scope]), keys.create("other", scope, scopes=[scope])
    wrong: list[Any] = []
    for line in LINES:
        if not opens(line, scope):
            for secret in (own, foreign):
                answer, _ = ask(doors, line, None, secret)
                wrong += [] if answer.status_code == 403 else [(line.name, scope, answer.status_code)]
            continue
        wrong += _own(doors, line, mine, scope, own) + _foreign(doors, line, other, scope, own)
        wrong += _refused(doors, line, mine, scope, foreign)
    assert not wrong


def _own(doors: httpx.Client, line: Line, things: Things, scope: str, secret: str) -> list[Any]:
    """With a key of the same project: the scope alone decides, and a change is in the audit log."""
    answer, _ = ask(doors, line, things, secret)
    if answer.status_code >= 300 and answer.status_code not in WITHOUT_ENGINE.get(line.name, ()):
        return [(line.name, scope, answer.status_code, answer.text)]
    key = keys.check(secret)
    written = [found for found in _audit("default") if found.actor == (key.id if key else "")]
    noted = any(found.body.get("request") == answer.headers["x-request-id"] for found in written)
    changed = line.right.changes and answer.status_code < 300
    return [] if noted == changed else [(line.name, scope, "audit", noted)]


def _audit(project: str) -> list[audit.Line]:
    return audit.read(project, limit=10_000)


def _foreign(doors: httpx.Client, line: Line, things: Things, scope: str, secret: str) -> list[Any]:
    """With a key of this project, about things of another one: as if they were not there."""
    answer, ids = ask(doors, line, things, secret)
    if things.mark in answer.text and answer.status_code != 404:  # a 404 repeats what was asked for
        return [(line.name, scope, "leaks", answer.text)]
    own = ids.keys() - SHARED.keys()
    if own and answer.status_code not in ELSEWHERE.get(line.name, (404,)):
        return [(line.name, scope, "other", answer.status_code, answer.text)]
    return []


def _refused(doors: httpx.Client, line: Line, things: Things, scope: str, secret: str) -> list[Any]:
    """The same the other way round, for the service's own project may make projects."""
    if line.name == "POST /v1/admin/projects":
        answer, _ = ask(doors, line, things, secret)
        return [] if answer.status_code == 403 else [(line.name, scope, "foreign", answer.status_code)]
    return _foreign(doors, line, things, scope, secret)
