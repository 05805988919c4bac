"""A real service in processes of its own, on a tiny model, that a test may kill and start again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from moatelier.settings import settings
from store import db
from tests import fakes

REQUEST = (
    "Train a classifier that predicts intent from message, at least 50% accuracy, at most 1 trial, within 10 minutes."
)
MODEST = REQUEST.replace("at least 50%", "at least 5%")
"""What even the random tiny model reaches by always giving one answer, so that its adapter is promoted."""
ENDED = {"reached", "not_reached", "rejected", "cancelled", "failed"}


def _tiny_sentences(folder: Path) -> Path:
    """A random embedding model that knows the words of the fake rows."""
    from tests import sentences  # noqa: PLC0415  (its library takes seconds to import; few services need it)

    words = [word for texts in fakes.INTENTS.values() for text in texts for word in text.split()]
    return sentences.tiny_embedding(folder, " ".join([*words, "since days because of reason", *map(str, range(10))]))


def _tiny_base(modality: str, folder: Path) -> dict[str, Any]:
    from tests import media  # noqa: PLC0415  (as above)

    return media.tiny_base(modality, folder)


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(process: psutil.Process) -> str:
    """A process's command line; "" where it is just dying."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """The first true value of a condition; an AssertionError that names what was waited for when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}")


@contextmanager
def prepared(service: "Service") -> Iterator[None]:
    """Before a service starts: its store is this process's too, and its base is pulled."""
    from modalities import pull  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patched:
        for name, value in service.environment.items():
            if name.startswith("MOATELIER_"):
                patched.setenv(name, value)
        settings.cache_clear()
        service.home.mkdir()
        try:
            db.migrate()
            pull.pull("tiny")
            yield
        finally:
            db.dispose()
            settings.cache_clear()


ABOUT_PROCESSES = {"resumed", "checkpoint"}
"""Events that tell what a process did, not what the task did: a killed one has more of them."""


TINY_SENTENCES = "tiny-sentences"


class Service:
    """`moatelier serve` on a data directory of its own; it may be killed and started again on the same directory.

    Args:
        folder: Where everything of it lies.
        embedding: The embedding model to pull beforehand, so that adapters enter `auto`: a pack, or TINY_SENTENCES.
        modality: `vision` or `audio` brings a tiny base for it, which is pulled beforehand and which tasks tune.
        **environment: Further variables.
    """

    def __init__(self, folder: Path, *, embedding: str = "", modality: str = "", **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home = folder / "home"
        model = fakes.tiny_llama(folder / "model")
        vectors = _tiny_sentences(folder / "sentences") if embedding == TINY_SENTENCES else None
        bases = [_tiny_base(modality, folder / "base")] if modality else []
        self.port, engine_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "MOATELIER_HOME": str(self.home),
            "MOATELIER_CACHE": str(folder / "cache"),
            "MOATELIER_CATALOGUE": str(fakes.tiny_catalogue(folder / "catalogue.yaml", model, vectors, *bases)),
            "MOATELIER_BASE": "tiny",
            "MOATELIER_PORT": str(self.port),
            "MOATELIER_ENGINE_PORT": str(engine_port),
            **({"MOATELIER_EMBEDDING": embedding} if embedding else {}),
            **{f"MOATELIER_{modality.upper()}_BASE": base["id"] for base in bases},
            **environment,
        }
        self.pulled = [*([embedding] if embedding else []), *(base["id"] for base in bases)]
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Service":
        for model in self.pulled:
            self._pull(model)
        self.start()
        return self

    def _pull(self, model: str) -> None:
        """Bring a model into the service's cache: a pack by way of the machine's own, as its tests do."""
        command = [sys.executable, "-m", "modalities.pull", "pull", model, "--json"]
        pack = f"id: {model}\n" not in Path(self.environment["MOATELIER_CATALOGUE"]).read_text(encoding="utf-8")
        environment = os.environ if pack else self.environment
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        if pack:
            folder = Path(json.loads(done.stdout)["folder"])
            shutil.copytree(folder, Path(self.environment["MOATELIER_CACHE"]) / "packs" / folder.name)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until everything is ready."""
        self.launch()
        wait_for(f"the service to be ready, see {self.log}", self.ready)

    def launch(self) -> None:
        """Start and do not wait."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "moatelier.cli", "serve"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def ready(self) -> bool:
        """Everything answers; an AssertionError when the supervisor has gone."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> float:
        """SIGTERM, and wait until nothing is left; the seconds it took."""
        assert self.process is not None
        family = self.family()
        start = time.monotonic()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        psutil.wait_procs(family, timeout=15)
        left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()
        assert not left, f"still there after the end: {left}"
        return time.monotonic() - start

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        assert self.process is not None
        if self.process.poll() is not None:
            return []
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def pid(self, role: str) -> int:
        """The process id of the supervisor, api, worker or engine."""
        if role == "supervisor":
            assert self.process is not None
            return self.process.pid
        module = {"api": "api.app", "worker": "graphs.worker", "engine": "serving.pool"}[role]

        def find() -> int:
            return next((p.pid for p in self.family() if module in command_of(p)), 0)

        return int(wait_for(f"the {role} process", find))

    def kill(self, pid: int) -> None:
        """SIGKILL by process id, from outside; a supervisor is started again, as a machine's init would."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            raise AssertionError(f"process {pid} had gone before it could be killed") from None
        assert self.process is not None
        if pid == self.process.pid:
            self.process.wait()
            self.start()

    def kill_at(self, fault: str, victim: str) -> None:
        """Kill a role, or with `job` whoever waits, while a process waits at a fault point; "" when nobody waits."""
        waiting = self.stuck_at(fault) if fault else 0
        role = victim if victim != "job" or fault else "worker"
        pid = waiting if role == "job" else self.pid(role)
        # Let go first: a process that was not the victim must be free to notice that its parent is gone.
        if fault and pid != waiting:
            threading.Timer(0.5, self.let_go, (fault,)).start()
        self.kill(pid)

    def stuck_at(self, fault: str) -> int:
        """Wait until a process has reached a fault point; its process id."""
        marker = self.home / "faults" / fault
        wait_for(f"a process at {fault}", lambda: marker.exists() and marker.read_text())
        return int(marker.read_text())

    def let_go(self, fault: str) -> None:
        """Let the process at a fault point go on."""
        (self.home / "faults" / f"{fault}.go").touch()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request as the first key's owner; retried while the service is being restarted."""
        key = (self.home / "keys" / "admin.key").read_text().strip()

        def attempt() -> Any:
            try:
                headers = {"Authorization": f"Bearer {key}"}
                return httpx.request(method, self.url + path, headers=headers, timeout=30, **arguments)
            except httpx.TransportError:
                return None

        response = wait_for(f"an answer to {method} {path}", attempt, 60)
        assert not response.is_error, response.text
        return response.json()

    def begin(self, file: Path, request: str = REQUEST) -> tuple[str, str]:
        """Upload a file and send a request: (conversation thread, task)."""
        sent = self.call(
            "POST", "/v1/files", files={"file": (file.name, file.read_bytes())}, data={"purpose": "fine-tune"}
        )
        thread = self.call("POST", "/threads", json={})["thread_id"]
        said = {"messages": [{"role": "user", "content": request}], "files": {"train": sent["id"]}}
        self.call("POST", f"/threads/{thread}/runs", json={"assistant_id": "moatelier", "input": said})

        def task() -> str | None:
            found = [t["id"] for t in self.call("GET", "/tasks")["data"] if t["conversation"] == thread]
            return found[0] if found else None

        return thread, wait_for("the task's row", task)

    def interrupt(self, thread: str) -> dict[str, Any]:
        """Wait until a conversation asks something; the interrupt."""

        def pending() -> Any:
            found = self.call("GET", f"/threads/{thread}")
            assert found["status"] != "idle", f"the conversation has ended, see {self.home}"
            return next((i for items in found["interrupts"].values() for i in items), None)

        return dict(wait_for("an interrupt", pending))

    def approve(self, thread: str) -> None:
        """Approve the plan that a conversation shows."""
        pending = self.interrupt(thread)
        answer = {"version": pending["value"]["version"], "decisions": [{"type": "approve"}]}
        body = {"assistant_id": "moatelier", "command": {"resume": {pending["id"]: answer}}}
        self.call("POST", f"/threads/{thread}/runs", json=body)

    def say(self, thread: str, text: str) -> None:
        """Answer what a conversation asks as people do: by a message."""
        self.interrupt(thread)
        said = {"messages": [{"role": "user", "content": text}]}
        self.call("POST", f"/threads/{thread}/runs", json={"assistant_id": "moatelier", "input": said})

    def status(self, task: str) -> str:
        """Where a task stands."""
        return str(self.call("GET", f"/tasks/{task}")["status"])

    def end(self, task: str, timeout_s: float = 240.0) -> dict[str, Any]:
        """Wait for a task's end; the task."""
        wait_for(f"the end of {task}", lambda: self.status(task) in ENDED, timeout_s)
        return dict(self.call("GET", f"/tasks/{task}"))

    def events(self, task: str) -> Counter[str]:
        """A task's events, counted by what they are; a repeated or missing one shows against an undisturbed run."""
        keys, after = [], 0
        while found := self.call("GET", f"/tasks/{task}/events?limit=500&after={after}")["data"]:
            after = found[-1]["id"]
            keys += [self._key(event) for event in found if event["kind"] not in ABOUT_PROCESSES]
        return Counter(keys)

    @staticmethod
    def _key(event: dict[str, Any]) -> str:
        body = event["body"]
        about = body.get("phase") or body.get("agent") or body.get("status") or body.get("role") or ""
        return json.dumps([event["kind"], body.get("job", ""), about, event["step"]])
