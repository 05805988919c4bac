"""What somebody who means ill tries: bodies without bounds, paths out of their folder, addresses to be fetched,
headers and log lines made of others' words."""

import asyncio
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text as sql

from api import bounds
from api.app import create_app
from api.bounds import depth
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from serving import connection
from store import audit, datasets, db, keys, tasks
from tests.api.conftest import Service
from tests.api.fake_engine import BASE
from tests.api.running import running
from tests.api.test_tasks_adapters import make_task

CHAT = "/v1/chat/completions"


def nested(levels: int) -> bytes:
    return b'{"model": "x", "messages": ' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("path", [CHAT, "/threads", "/v1/feedback", "/adapters/mix", "/v1/admin/keys"])
def test_a_deep_body_is_refused(http: httpx.Client, path: str, opening: bytes) -> None:
    answer = http.post(path, content=opening * 100_000, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "levels deep" in answer.json()["error"]["message"]


def test_depth_is_counted_outside_of_strings() -> None:
    assert depth(nested(200)) == 201 and depth(nested(bounds.DEPTH)) == bounds.DEPTH + 1
    assert depth(json.dumps({"text": "[" * 1000 + '\\"{' * 1000}).encode()) == 1
    assert depth(b'"' + b'\\"[' * 100_000) == 0, "an open string hides what follows"
    assert depth(b"]" * 100 + b"[" * 100) == 0 and depth(b"[]" * 1000) == 1


@pytest.mark.parametrize("window", [1, 2, 3, 7, 64])
def test_depth_does_not_depend_on_where_a_body_is_cut(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(bounds, "WINDOW", window)
    text = [{"a" * 30: ['"\\[[[', "\\", "[" * 100]}, [[], [[{}]]]] * 20
    assert depth(json.dumps(text).encode()) == 5
    assert depth(nested(bounds.DEPTH)) == bounds.DEPTH + 1 and depth(nested(200)) > bounds.DEPTH
    assert depth(b"[" * 100 + b'"' + b'\\"]' * 100) > bounds.DEPTH and depth(b'"' + b'\\"[' * 1000) == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_brackets_do_not_hide_in_another_encoding(http: httpx.Client, encoding: str) -> None:
    content = ('{"metadata": ' + "[" * 50_000 + "]" * 50_000 + "}").encode(encoding)
    answer = http.post("/threads", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "UTF-8" in answer.json()["error"]["message"]


def test_a_long_body_is_looked_at_beside_the_loop(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[int]()

    def noted(body: bytes) -> int:
        threads.append(threading.get_ident())
        return depth(body)

    monkeypatch.setattr(bounds, "depth", noted)
    for length in (10, bounds.WINDOW):
        http.post("/threads", json={"metadata": {"a": "x" * length}})
    assert len(set(threads)) == 2


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "megabytes"), [(CHAT, 1.2), ("/v1/files", 2.2), ("/v1/audio/transcriptions", 2.2)])
def test_a_body_that_is_too_long_is_refused(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, megabytes: float, chunked: bool
) -> None:
    monkeypatch.setenv("MOATELIER_BODY_MB", "1")
    monkeypatch.setenv("MOATELIER_UPLOAD_MB", "2")
    settings.cache_clear()
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    content = (head if path != CHAT else b'"') + b"x" * round(megabytes * 1e6)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    kind = "application/json" if path == CHAT else "multipart/form-data; boundary=x"
    answer = http.post(path, content=pieces() if chunked else content, headers={"content-type": kind})
    assert answer.status_code == 413, answer.text
    assert answer.json()["error"]["code"] == "request_too_large" and answer.headers["x-request-id"]
    assert datasets.list_files("default") == []
    assert http.get("/healthz").status_code == 200


def test_who_may_not_come_in_is_told_so_before_the_body_is_read(service: Service) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            sent.append(1)
            yield b"x" * 65536

    headers = {"content-type": "multipart/form-data; boundary=x", "x-api-key": "mo-wrong"}
    answer = httpx.post(f"{service.url}/v1/files", content=endless(), headers=headers)
    assert answer.status_code == 401 and answer.headers["connection"] == "close"


def raw(url: str, text: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=20)
    opened.sendall(text)
    return opened


def read_all(opened: socket.socket) -> bytes:
    got = b""
    while piece := opened.recv(65536):
        got += piece
    opened.close()
    return got


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
def test_a_body_that_does_not_come_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("MOATELIER_BODY_TIMEOUT_S", "0.3")
    settings.cache_clear()
    kind = "application/json" if path == CHAT else "multipart/form-data; boundary=x"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {service.key}\r\ncontent-type: {kind}\r\n"
    answer = read_all(raw(service.url, f"{head}content-length: 1000\r\n\r\n--x".encode()))
    assert answer.startswith(b"HTTP/1.1 408") and b'"request_timeout"' in answer


def test_a_body_that_drips_has_a_deadline(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_UPLOAD_TIMEOUT_S", "0.5")
    settings.cache_clear()
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: {service.key}\r\ncontent-length: 100000\r\n"
    part = '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    opened = raw(service.url, f"{head}content-type: multipart/form-data; boundary=x\r\n\r\n{part}".encode())
    begun = time.monotonic()
    opened.settimeout(0.05)
    answer = b""
    while not answer and time.monotonic() - begun < 15:
        opened.sendall(b"-")
        try:
            answer = opened.recv(65536)
        except TimeoutError:
            continue
    opened.close()
    assert answer.startswith(b"HTTP/1.1 408")


def test_headers_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await asyncio.sleep(0.5)  # longer than headers may take: an answer may
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with running(app, http=connection.Prompt) as url:
        assert read_all(raw(url, b"")) == b""
        assert read_all(raw(url, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")) == b""
        with httpx.Client(base_url=url) as client:
            assert [client.get("/").status_code for _ in range(2)] == [204, 204]


@pytest.mark.parametrize(
    "name",
    ["../../keys/admin.key", "..%2f..%2fkeys%2fadmin.key", "%2e%2e/%2e%2e/keys/admin.key", "..\\..\\keys\\admin.key"]
    + [
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "....//....//keys/admin.key",
        "%00",
        "report.json%00.html",
        "link",
        "a/" * 2000,
    ],
)
def test_no_path_leads_out_of_a_report(service: Service, name: str) -> None:
    make_task(1)
    folder = service.home / "reports" / "task-1"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    (folder / "link").symlink_to(service.home / "keys" / "admin.key")
    head = f"GET /tasks/task-1/report/{name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    answer = read_all(raw(service.url, f"{head}x-api-key: {service.key}\r\n\r\n".encode()))
    assert answer.startswith(b"HTTP/1.1 404 "), answer
    assert service.key.encode() not in answer


@pytest.mark.parametrize("path", ["/adapters/{}", "/adapters/{}/export", "/v1/models/{}", "/v1/files/{}/content"])
@pytest.mark.parametrize("name", ["..%2f..%2fkeys%2fadmin.key", "%2e%2e%2fmoatelier.db", "%00", "%ff%fe", "a%0ab"])
def test_no_name_is_a_path(http: httpx.Client, path: str, name: str) -> None:
    answer = http.get(path.format(name))
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "name", ["../../evil.csv", "..\\evil.csv", "/etc/cron.d/evil.csv", "a\r\nx-evil: 1.csv", "é\u2028.csv"]
)
def test_an_uploads_name_is_only_a_name(http: httpx.Client, service: Service, name: str) -> None:
    kept = http.post("/v1/files", files={"file": (name, b"a,b\n1,2\n")}).json()
    assert "/" not in kept["filename"] and "\\" not in kept["filename"]
    content = http.get(f"/v1/files/{kept['id']}/content")
    assert content.status_code == 200 and "x-evil" not in content.headers
    assert not list(service.home.rglob("evil*"))


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "file:///etc/passwd", "ftp://127.0.0.1:{port}/"]
    + ["//127.0.0.1:{port}/", "http://[::1]:{port}/", "http://2130706433:{port}/", "gopher://127.0.0.1:{port}/_x"],
)
def test_nothing_in_a_request_is_ever_fetched(service: Service, http: httpx.Client, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lure:
        lure.settimeout(0.2)
        place = url.format(port=lure.getsockname()[1])
        image = [{"type": "image_url", "image_url": {"url": place}}]
        bodies: list[tuple[str, Any]] = [
            (CHAT, {"model": BASE, "messages": [{"role": "user", "content": image}]}),
            ("/v1/embeddings", {"model": BASE, "input": place}),
            ("/v1/classify", {"model": BASE, "input": place}),
            ("/v1/moa", {"yaml": f"name: x\nlayers: [{{proposers: [{{upstream: '{place}', model: a}}]}}]"}),
            ("/threads", {"metadata": {"webhook": place}}),
            ("/threads/t/runs", {"input": {"messages": [{"role": "user", "content": place}]}, "webhook": place}),
        ]
        for path, body in bodies:
            http.post(path, json=body)
        with pytest.raises(TimeoutError):
            lure.accept()


def test_what_a_client_writes_makes_no_line_of_a_log(
    service: Service, http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "moatelier")
    evil = "x\nERROR forged line\r\x1b[31m"
    monkeypatch.setattr(tasks, "list_tasks", lambda *_, **__: 1 / 0)
    head = f"GET /tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {service.key}\r\n"
    for header in ("x-request-id", "user-agent", "x-forwarded-for"):
        read_all(raw(service.url, f"{head}{header}: x\x0bERROR forged line\r\n\r\n".encode()))
    httpx.get(f"{service.url}/tasks", params={"after": evil}, headers=service.headers)
    http.post("/threads", json={"thread_id": evil})
    http.post(CHAT, json={"model": evil, "messages": [{"role": "user", "content": evil}]})
    said = [record.getMessage() for record in caplog.records if record.name.startswith("moatelier")]
    assert not [line for line in said if "forged" in line]


def test_neither_secrets_nor_words_are_logged(
    service: Service, http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    words = "my-card-is-4111"
    made = http.post("/v1/admin/keys", json={"name": "k", "scopes": ["infer"]}).json()
    for said in (words, f"{words} refuse", "fail"):
        http.post(CHAT, json={"model": BASE, "messages": [{"role": "user", "content": said}]})
        http.post(CHAT, json={"model": "none", "messages": [{"role": "user", "content": said}]})
    http.post("/v1/files", files={"file": ("a.csv", f"a,b\n{words},1\n".encode())})
    http.get("/v1/models", headers={"authorization": f"Bearer {made['secret']}x"})
    text = caplog.text + json.dumps([line.model_dump(mode="json") for line in audit.read("default")])
    for hidden in (words, made["secret"], service.key):
        assert hidden not in text


def test_an_error_of_the_database_names_no_values(home: Any) -> None:
    with pytest.raises(MoatelierError) as caught, db.session() as opened:
        opened.execute(sql("INSERT INTO files (id) VALUES (:said)"), {"said": "my-card-is-4111"})
    chain = "".join(traceback.format_exception(caught.value))
    assert "my-card" not in chain and "NOT NULL" in chain


def test_no_page_of_another_origin_may_call_unless_it_is_named(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    plain = httpx.options(f"{service.url}{CHAT}", headers=asking)
    assert plain.status_code == 405 and "access-control-allow-origin" not in plain.headers
    monkeypatch.setenv("MOATELIER_CORS_ORIGINS", '["https://chat.example"]')
    settings.cache_clear()
    with running(create_app(service.engine_url)) as url:
        assert "access-control-allow-origin" not in httpx.options(f"{url}{CHAT}", headers=asking).headers
        named = {**asking, "origin": "https://chat.example", "access-control-request-headers": "authorization"}
        allowed = httpx.options(f"{url}{CHAT}", headers=named)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-credentials" not in allowed.headers
        refused = httpx.get(f"{url}/v1/models", headers={"origin": "https://chat.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://chat.example"


def test_every_answer_says_what_a_browser_may_make_of_it(service: Service, http: httpx.Client) -> None:
    for path in ("/", "/healthz", "/v1/models", "/nowhere", "/tasks/none"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert (
            headers["referrer-policy"] == "no-referrer" and "default-src 'none'" in headers["content-security-policy"]
        )
    assert "sandbox" in http.get("/v1/models").headers["content-security-policy"]
    assert "sandbox" not in http.get("/").headers["content-security-policy"]


def test_a_secret_that_was_rotated_away_is_never_good_again(service: Service) -> None:
    """The file of the first key is read at every start, and what it holds is entered: not if it has ended."""
    mine = keys.list_keys("default")[0]
    first = service.key
    keys.rotate("default", mine.id)
    (service.home / "keys" / "admin.key").write_text(first)
    assert keys.ensure_admin() != first and keys.check(first) is None
