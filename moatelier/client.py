"""The command line's HTTP client: against a running service, or one that is started for the call."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from moatelier.errors import MoatelierError, ModelUnavailable, Unauthorized, UpstreamError
from moatelier.loopback import is_loopback
from moatelier.packing import sendable
from moatelier.settings import settings
from moatelier.supervisor import base_url, is_ready

START_TIMEOUT_S = 90.0
UPLOAD_TIMEOUT_S = 600.0
"""The service copies an upload to its place before it answers."""


class Client:
    """Speaks to one service. Every method raises the MoatelierError that the service answered with."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=not is_loopback(url)
        )

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; its JSON."""
        with _reached(self.url):
            return _checked(self.http.request(method, path, **arguments)).json()

    def download(self, path: str, to: BinaryIO) -> int:
        """Stream a body into a file; its size in bytes."""
        with _reached(self.url), self.http.stream("GET", path) as response:
            if response.is_error:
                response.read()
            _checked(response)
            return sum(to.write(chunk) for chunk in response.iter_bytes())

    def upload(self, path: Path) -> str:
        """Upload a file, or a folder as a zip, to train or test on; its id.

        Raises:
            DataError: There is no such file, or the folder holds nothing that could be learnt from.
        """
        with sendable(path) as (name, sent), sent.open("rb") as file:
            files, data = {"file": (name, file)}, {"purpose": "fine-tune"}
            kept = self.call("POST", "/v1/files", files=files, data=data, timeout=UPLOAD_TIMEOUT_S)
        return str(kept["id"])

    def answer(self, model: str, text: str) -> str:
        """One model's whole answer to one user message."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return str(self.call("POST", "/v1/chat/completions", json=body)["choices"][0]["message"]["content"])

    def stream(self, method: str, path: str, body: Any = None, last: str = "") -> Iterator[tuple[str, str, Any]]:
        """Server-sent events as (event, id, data); data is parsed JSON where it is JSON."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx.Timeout(60, read=None)
        with _reached(self.url):
            with self.http.stream(method, path, json=body, headers=headers, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                _checked(response)
                yield from _events(response.iter_lines())


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise UpstreamError(
            f"The service does not answer: {str(error) or type(error).__name__}.",
            where=url,
            remedy="It may be starting again; what it works on goes on. See: moatelier task list",
        ) from error


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    event, identity = "message", ""
    data: list[str] = []
    for line in lines:
        if not line and data:
            yield event, identity, _parsed("\n".join(data))
            event, data = "message", []
        elif line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("id:"):
            identity = line[3:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # such as OpenAI's [DONE]
        return text


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_error:
        return response
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"The service answered {response.status_code}: {response.text[:200]}"}
    known = MoatelierError.from_dict({"code": error.get("code"), "what": error.get("message", "")})
    if isinstance(known, Unauthorized):
        known.remedy = f"Set MOATELIER_KEY, or use the key in {settings().home / 'keys' / 'admin.key'}."
    raise known


def _key() -> str:
    if settings().key:
        return settings().key.get_secret_value()  # type: ignore[union-attr]  # just checked
    path = settings().home / "keys" / "admin.key"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def _running() -> str | None:
    """The service of this data directory, or, for who brings a key of their own, the one on the set host and port."""
    path = settings().home / "service.json"
    if path.exists():
        place = json.loads(path.read_text(encoding="utf-8"))
        url = str(place["url"])
        # It may be about to be ready, or be starting one of its processes again: two cannot share a directory.
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (ready := is_ready(url)) and _lives(int(place["pid"])) and time.monotonic() < deadline:
            time.sleep(0.2)
        return url if ready else None
    if settings().key:
        return url if is_ready(url := base_url(settings())) else None
    return None  # whoever listens on our port serves another data directory, and our key would be wrong there


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@contextmanager
def connect() -> Iterator[Client]:
    """A client of the running service; with none running, one is started and ended with the call."""
    url, process = _running(), None
    if url is None:
        process = _start()
        url = base_url(settings())
    try:
        client = Client(url, _key())
        with client.http:
            yield client
    finally:
        if process:
            process.terminate()
            process.wait()


def _start() -> subprocess.Popen[bytes]:
    print("no service is running; starting one for this call", file=sys.stderr)
    settings().home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = settings().home / "service.log"
    with log.open("ab") as file:
        # In a session of its own, so that Ctrl-C ends the call first and the service after it.
        command = [sys.executable, "-m", "moatelier.cli", "serve"]
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=dict(os.environ))
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if is_ready():
            return process
        time.sleep(0.2)
    process.terminate()
    raise _not_started(log)


def _not_started(log: Path) -> MoatelierError:
    """Why a service ended at its start: its own error, if it told one."""
    said = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    known = re.match(r"error \[(\w+)\]: (.*)", said)
    code, told = known.groups() if known else (ModelUnavailable.code, said)
    remedy = f"Its log is {log}; start it by hand to see more: moatelier serve"
    return MoatelierError.from_dict({"code": code, "what": f"The service did not start: {told}", "remedy": remedy})
