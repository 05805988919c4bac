"""One line a request: who asked for what, how it went, what it cost. Nothing that was said, and no key."""

import logging
import re
from typing import Any

import httpx
import openai
import pytest

from moatelier.logs import FIELDS, QUIET, JsonLines
from tests.api.conftest import Service, make_adapter
from tests.api.running import wait_until

SAID = "xyzzy plugh"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG)

    def of(count: int = 1) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [getattr(one, FIELDS) for one in caplog.records if one.name == "moatelier.request"]
            return len(found) >= count

        wait_until(there)
        return found

    return of


def test_a_whole_answer(service: Service, http: httpx.Client, lines: Any) -> None:
    record = make_adapter()
    body = {"model": record.model_id, "messages": [{"role": "user", "content": SAID}]}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    [line] = lines()
    assert line.pop("seconds") > 0
    assert line == {
        "request": "mine-1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": record.model_id,
        "reason": "exact",
        "prompt_tokens": 3,
        "completion_tokens": 2,
    }


def test_a_stream_is_told_of_when_it_has_ended(client: openai.OpenAI, lines: Any) -> None:
    messages: Any = [{"role": "user", "content": SAID}]
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=messages, stream=True, stream_options=options
    )
    assert len(list(stream)) > 3
    [line] = lines()
    assert (line["status"], line["reason"], line["completion_tokens"]) == (200, "base", 3)


def test_paths_and_ids_that_a_client_made_up_are_no_part_of_it(http: httpx.Client, lines: Any) -> None:
    http.get("/v1/nothing/xyzzy", headers={"x-request-id": "a\tforged id"})
    [line] = lines()
    assert (line["route"], line["status"]) == ("none", 404)
    assert re.fullmatch(r"req-\w+|req_\w+", line["request"])


def test_what_was_said_and_keys_are_nowhere(
    service: Service, http: httpx.Client, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Looked for in every line of every logger, at the level for debugging too."""
    for words in (SAID, f"{SAID} refuse", "refuse", "fail"):
        body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": words}], "user": SAID}
        http.post("/v1/chat/completions", json=body)
        http.post("/v1/chat/completions", json=body | {"stream": True})
    http.post("/v1/chat/completions", content=SAID.encode())
    http.post("/v1/feedback", json={"completion": SAID, "comment": SAID})
    httpx.get(f"{service.url}/v1/models", headers={"authorization": f"Bearer {SAID.replace(' ', '-')}"})
    lines(11)
    ours = [record for record in caplog.records if not record.name.startswith(QUIET)]
    told = "\n".join(JsonLines("api").format(record) for record in ours)
    assert "xyzzy" not in told and service.key not in told


def test_machines_that_look_every_second_are_for_those_who_debug(
    http: httpx.Client, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    http.get("/healthz")
    http.get("/v1/models")
    lines(2)
    levels = {getattr(one, FIELDS)["route"]: one.levelname for one in caplog.records if one.name == "moatelier.request"}
    assert levels == {"/healthz": "DEBUG", "/v1/models": "INFO"}
