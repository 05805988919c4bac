"""Keys, envelopes and request ids."""

import httpx
import openai
import pytest

from moatelier.errors import MoatelierError, ResourceExhausted
from store import events, keys, tasks
from tests.api.conftest import Service
from tests.api.fake_engine import BASE
from tests.api.running import wait_until


def test_every_route_but_the_probes_wants_a_key(service: Service) -> None:
    for path in ("/v1/models", "/v1/files", "/threads/x", "/threads/x/runs", "/tasks", "/adapters", "/tasks/x/report"):
        answer = httpx.get(service.url + path)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok"}


def test_both_headers_carry_the_key(service: Service) -> None:
    for headers in ({"authorization": f"Bearer {service.key}"}, {"x-api-key": service.key}):
        assert httpx.get(f"{service.url}/tasks", headers=headers).status_code == 200
    for headers in ({"authorization": "Bearer mo-wrong"}, {"x-api-key": "mo-wrong"}, {"authorization": service.key}):
        assert httpx.get(f"{service.url}/tasks", headers=headers).status_code == 401


def test_the_openai_client_understands_a_wrong_key(service: Service) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="mo-wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="wrong or was revoked") as caught:
            client.models.list()
        assert caught.value.code == "unauthorized"


def test_a_revoked_key_stops_working_within_a_second(service: Service) -> None:
    secret = keys.create("default", "passing")
    headers = {"x-api-key": secret}
    assert httpx.get(f"{service.url}/tasks", headers=headers).status_code == 200
    mine = next(key for key in keys.list_keys("default") if key.name == "passing")
    keys.revoke("default", mine.id)
    wait_until(lambda: httpx.get(f"{service.url}/tasks", headers=headers).status_code == 401, timeout_s=1.5)


def test_all_failures_use_the_envelope(http: httpx.Client) -> None:
    failures: list[tuple[str, str, bytes, int, str]] = [
        ("GET", "/nowhere", b"", 404, "not_found"),
        ("DELETE", "/v1/models", b"", 405, "invalid_request"),
        ("GET", "/v1/files?limit=0", b"", 400, "invalid_request"),
        ("GET", "/v1/files?limit=many", b"", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400, "invalid_request"),
        ("POST", "/threads", b"[]", 400, "invalid_request"),
        ("GET", "/tasks/task-none", b"", 404, "not_found"),
        ("GET", "/tasks?after=task-none", b"", 404, "not_found"),
        ("GET", "/adapters/none", b"", 404, "not_found"),
    ]
    for method, path, content, status, code in failures:
        answer = http.request(method, path, content=content)
        assert answer.status_code == status, path
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code and error["message"], path
        assert answer.headers["x-request-id"]


def test_an_unexpected_failure_tells_nothing_but_its_request_id(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.tasks.list_tasks", lambda *_, **__: 1 / 0)
    answer = http.get("/tasks", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["error"]["code"] == "internal_error"
    assert "mine-1" in answer.json()["error"]["message"] and "division" not in answer.text


def test_a_request_id_that_is_unfit_for_a_log_is_replaced(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"x-request-id": "a b{}"}).headers["x-request-id"].startswith("req-")


def test_readiness_names_what_is_missing(http: httpx.Client, service: Service) -> None:
    answer = http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"] == {"store": True, "engine": True, "worker": False}
    assert answer.json()["reasons"] == {"worker": "upstream_error"}
    (service.home / "worker.heartbeat").touch()
    assert http.get("/readyz").json() == {
        "status": "ok",
        "parts": {"store": True, "engine": True, "worker": True},
        "reasons": {},
    }


def test_the_page_is_open_and_may_run_only_its_own_script(service: Service) -> None:
    page = httpx.get(service.url)
    assert page.status_code == 200 and "<title>Moatelier</title>" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert "http://" not in page.text and "https://" not in page.text  # nothing from elsewhere


def test_a_store_that_fails_does_not_fail_an_answer(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}]}
    with monkeypatch.context() as patched:
        patched.setattr(events, "append", lambda _: 1 / 0)
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        wait_until(lambda: "could not be written" in caplog.text)
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    wait_until(lambda: len(events.read("default", stream="inference")) == 2)  # the first decision waited


def test_places_of_ours_are_told_to_the_log_and_not_to_clients(
    http: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: MoatelierError) -> None:
        raise error

    place, what = f"{service.home}/moatelier.db", "connection to server at db.internal failed"
    for error in (MoatelierError(what, where=place, remedy="Look."), ResourceExhausted("Full.", where=place)):
        monkeypatch.setattr(tasks, "list_tasks", lambda *_, error=error, **__: fail(error))
        answer = http.get("/tasks")
        assert answer.status_code == error.status and answer.json()["error"]["param"] is None
        assert place not in answer.text and what not in answer.text
        assert place in caplog.text
        caplog.clear()
