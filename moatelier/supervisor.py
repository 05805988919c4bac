"""`moatelier serve`: starts the api, the worker and the engine, mends them when they die, and ends them together.

One service owns a data directory: it holds `<home>/service.lock` while it lives. Each process gets the read end of a
pipe that only the supervisor can close, so none of them outlives it, however it dies. `<home>/service.json` tells
clients where the service listens.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from types import FrameType

import httpx
from filelock import FileLock, Timeout

from moatelier.errors import JobFailed, MoatelierError, ServiceRunning
from moatelier.job import write_atomically
from moatelier.loopback import is_loopback
from moatelier.settings import Settings, settings

PIPE = "MOATELIER_SUPERVISOR_PIPE"
ROLES = {"engine": "serving.pool", "worker": "graphs.worker", "api": "api.app"}
ENGINE_HOST = "127.0.0.1"
GRACE_S = 8.0
"""From SIGTERM to SIGKILL; with it everything ends within 10 s."""
RESTART_AFTER_S = (0.2, 0.5, 1, 2, 5, 10)


@dataclass
class Child:
    """One supervised process and how often it died lately."""

    role: str
    pipe: int
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started: float = 0.0
    due: float = 0.0

    def start(self) -> None:
        """Start the process; its output goes to `<home>/logs/<role>.log`."""
        logs = settings().home / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{self.role}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", ROLES[self.role]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self.pipe,),
                env={**os.environ, PIPE: str(self.pipe)},
            )
        self.started = time.monotonic()

    def mend(self) -> None:
        """Start the process again if it has died, later each time it dies soon after a start."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self.start()
            return
        if self.process.poll() is None:
            return
        self.deaths = 0 if now - self.started > 60 else self.deaths + 1
        wait = RESTART_AFTER_S[min(self.deaths, len(RESTART_AFTER_S) - 1)]
        print(
            f"the {self.role} process ended with {self.process.returncode}; starting it again in {wait} s", flush=True
        )
        self.process, self.due = None, now + wait


@dataclass
class Supervisor:
    """The three processes of one service."""

    children: list[Child] = field(default_factory=list)
    stopping: bool = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        read_end, write_end = os.pipe()
        self.children = [Child(role, read_end) for role in ROLES]
        try:
            announced = False
            while not self.stopping:
                for child in self.children:
                    child.mend()
                if not announced and is_ready():
                    announced = True
                    print(f"moatelier is ready on {base_url(settings())}", flush=True)
                time.sleep(0.1)
        finally:
            self._end()
            os.close(write_end)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _end(self) -> None:
        living = [child.process for child in self.children if child.process and child.process.poll() is None]
        for process in living:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in living:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def base_url(config: Settings) -> str:
    """Where the service listens."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def is_ready(url: str | None = None) -> bool:
    """All parts of the service answer."""
    try:
        place = url or base_url(settings())
        return httpx.get(f"{place}/readyz", timeout=2, trust_env=not is_loopback(place)).status_code == 200
    except httpx.HTTPError:
        return False


def _require_free(role: str, port: int, variable: str, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    host = settings().host if role == "api" else ENGINE_HOST
    while (reason := _in_use(host, port)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if reason:
        raise ServiceRunning(
            f"The {role} cannot listen on port {port}: {reason}.",
            where=f"{host}:{port}",
            remedy=f"Stop what listens there, or set {variable} to another port.",
        )


def _in_use(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return str(error.strerror)
    return ""


def _prepare() -> None:
    """Check what the settings name and bring the store up to date, in processes of their own: this layer knows neither.

    Raises:
        MoatelierError: A setting names no model, or one of the wrong kind.
        JobFailed: The store cannot be brought up to date.
    """
    named = subprocess.run([sys.executable, "-m", "modalities.catalogue"], capture_output=True, text=True, check=False)
    if named.returncode:
        raise _told(named.stderr.strip())
    done = subprocess.run([sys.executable, "-m", "store.db"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobFailed(f"The store could not be brought up to date: {done.stderr.strip()[-2000:]}")
    if done.stdout:
        print(done.stdout, end="", flush=True)


def _told(said: str) -> MoatelierError:
    """The error that a process left as its last line."""
    try:
        return MoatelierError.from_dict(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError):
        return JobFailed(f"The settings could not be checked: {said[-2000:]}")


def serve() -> None:
    """Own the data directory and serve until told to stop.

    Raises:
        ServiceRunning: Another service owns the data directory, or a port is in use.
    """
    home = settings().home
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(home / "service.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ServiceRunning(
            "Another moatelier service uses this data directory.",
            where=str(home),
            remedy="Stop it first, or set MOATELIER_HOME to another directory.",
        ) from error
    with lock:
        # A supervisor that was killed left service.json behind, and its processes need a moment to leave.
        patience_s = GRACE_S if (home / "service.json").exists() else 0.0
        _require_free("api", settings().port, "MOATELIER_PORT", patience_s)
        _require_free("engine", settings().engine_port, "MOATELIER_ENGINE_PORT", patience_s)
        _prepare()
        place = {"url": base_url(settings()), "pid": os.getpid()}
        write_atomically(home / "service.json", json.dumps(place).encode())
        try:
            Supervisor().run()
        finally:
            (home / "service.json").unlink(missing_ok=True)
