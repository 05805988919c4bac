"""A job's process, seen from its worker: start it, copy its events to the log, stop it, tell how it ended.

The folder's protocol is in moatelier/job.py. A process that dies without a result is started again and goes on from
what it had saved; one that dies `MAX_DEATHS` times without a new event in between has failed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphs import metrics
from moatelier.contracts import Event
from moatelier.job import CANCELLED, WORKER_PIPE, write_atomically
from moatelier.settings import settings
from store import events, tasks

MODULES = {
    "pull": "modalities.pulljob",
    "probe": "training.probe",
    "weigh": "evals.bases",
    "doubt": "modalities.doubting",
    "train": "training.run",
    "evaluate": "evals.run",
    "gate": "evals.gate",
    "suite": "evals.suite_run",
    "routing": "evals.routing",
    "mixture": "graphs.held_out",
    "candidates": "graphs.candidates",
    "mix": "evals.mixing",
    "export": "evals.exporting",
}
TRAINING = "train"
MAX_DEATHS = 5
FAILED = 1
"""Exit status of a process that could not even say why it failed; starting it again would change nothing."""
POLL_S = 0.2
TERM_GRACE_S = 15.0
"""After SIGTERM a process has this long to save before its group is killed."""
CANCEL_GRACE_S = 60.0
"""The same where a person has cancelled: what was trained so far is sealed."""
NICE = 10
"""Of jobs, on the scale from 0 to 19: beside one that computes, the engine gets nine tenths of a core."""
SILENCE_S = 300.0
"""No heartbeat for this long means that the process hangs."""

_running: dict[str, "JobProcess"] = {}
_starting = threading.Lock()
"""Held while a process is started, and for good by a worker that leaves: what it has stopped must not start again."""


@dataclass
class JobProcess:
    """One job: its folder, its process while it lives, and how much of its events the log has."""

    key: str
    kind: str
    context: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    offset: int = 0
    said: set[tuple[str, int]] = field(default_factory=set)
    progressed: bool = False
    """It has said something new in this life: a process that only repeats itself is going nowhere."""
    beat: tuple[float, float] = (0.0, 0.0)
    """The last heartbeat by the wall clock, and when it was noticed by the one that never jumps."""
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = settings().home / "jobs" / self.key

    def start(self) -> None:
        """Start the process in a group of its own; it leaves when the pipe's other end, which we hold, closes."""
        (self.folder / "heartbeat").touch()
        self.beat = (0.0, time.monotonic())  # a predecessor's last one may be days old
        read_end, self.pipe = os.pipe()
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULES[self.kind], "--spec", str(self.folder / "spec.json")]
                + ["--folder", str(self.folder), "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(read_end,),
                start_new_session=True,
                env={**os.environ, WORKER_PIPE: str(read_end)},
            )
        os.close(read_end)
        give_way(self.process.pid)

    def copy_events(self) -> None:
        """Append what the process has said since the last call; repeats are dropped by the log."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        events.append([self._event(line) for line in lines])
        self.offset += len(whole)
        said = {(line["kind"], line["step"]) for line in lines}
        self.progressed |= bool(said - self.said)
        self.said |= said

    def _event(self, line: dict[str, Any]) -> Event:
        body = {"phase": self.kind, **line["body"]}
        return Event(**self.context, job=self.key, kind=line["kind"], step=line["step"], body=body)

    def say(self, status: str, step: int) -> None:
        """Log that the job started, ended or died."""
        body = {"job": self.kind, "key": self.key, "status": status}
        events.append([Event(**self.context, job=self.key, kind="job", step=step, body=body)])

    def stop(self, grace_s: float = TERM_GRACE_S) -> None:
        """SIGTERM, a grace, then SIGKILL to the whole group; returns when nothing of it is left."""
        if self.process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self._signal(signal.SIGKILL)  # what the process itself may have started

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def hangs(self) -> bool:
        """The process lives, but its heartbeat has been silent for too long."""
        beat, now = (self.folder / "heartbeat").stat().st_mtime, time.monotonic()
        if beat != self.beat[0]:
            self.beat = (beat, now)
        return now - self.beat[1] > SILENCE_S

    def close(self) -> None:
        """Let go of the pipe."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def give_way(pid: int) -> None:
    """Let a process compute with what the engine and the api leave over, and no faster than that.

    Jobs have sessions of their own, which Linux may schedule as groups: there niceness counts only within a group, and
    the group's own has to be lowered too.
    """
    with suppress(OSError, AttributeError):  # gone by itself already; or a system that does not know this
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def run(key: str, kind: str, spec: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """Carry a job to its end, {"result": ...} or {"error": ...}, or to a pause. Called again, it goes on."""
    job = JobProcess(key, kind, context)
    job.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(job.folder / "spec.json", json.dumps(spec, ensure_ascii=False).encode())
    job.say("started", 0)
    begun, deaths = time.monotonic(), 0
    while (outcome := _outcome(job.folder)) is None:
        if _paused(job):
            return {"paused": True}  # others get its turn; it goes on from its checkpoint when it is asked for again
        if _cancelled(context):
            outcome = _error("cancelled", "The task was cancelled.", job.folder)
            break
        with metrics.RUNNING.labels(kind).track_inprogress():
            code = _live(job)
        deaths = 1 if job.progressed else deaths + 1
        job.progressed = False
        if _outcome(job.folder) is None:
            metrics.DEATHS.labels(kind).inc()
        if _outcome(job.folder) is None and (code == FAILED or deaths >= MAX_DEATHS):
            what = f"The process of this {kind} job ended with status {code}: {_tail(job.folder)}"
            outcome = _error("job_failed", what, job.folder)
            break
    job.copy_events()
    if "result" in outcome and not spec.get("until_steps"):  # from a paused one another job goes on
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)  # a finished training never goes on from one
    status = "done" if "result" in outcome else outcome["error"]["code"]
    job.say(status, 1)
    metrics.JOBS.labels(kind, status).inc()
    metrics.JOB.labels(kind).observe(time.monotonic() - begun)
    return outcome


def _live(job: JobProcess) -> int:
    """One life of the process; its exit status."""
    (job.folder / "error.json").unlink(missing_ok=True)
    with _starting:
        job.start()
        _running[job.key] = job
    assert job.process is not None
    try:
        while job.process.poll() is None:
            time.sleep(POLL_S)
            job.copy_events()
            if _cancelled(job.context):
                (job.folder / CANCELLED).touch()
                job.stop(CANCEL_GRACE_S)
            elif _paused(job):
                job.stop(CANCEL_GRACE_S)
            elif job.hangs():
                job.stop(grace_s=0)
    finally:
        _running.pop(job.key, None)
        job.close()
    job.copy_events()
    return job.process.returncode


def stop_all(grace_s: float) -> None:
    """End every running job's process group and start no other one, for shutdown; they go on after a restart."""
    _starting.acquire()
    jobs = list(_running.values())
    for job in jobs:
        job._signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for job in jobs:
        job.stop(grace_s=max(0.0, deadline - time.monotonic()))


def _outcome(folder: Path) -> dict[str, Any] | None:
    for name in ("result", "error"):
        path = folder / f"{name}.json"
        if path.exists():
            return {name: json.loads(path.read_text(encoding="utf-8"))}
    return None


def _error(code: str, what: str, folder: Path) -> dict[str, Any]:
    return {"error": {"code": code, "what": what, "where": str(folder), "remedy": "Its log.txt says more."}}


def _cancelled(context: dict[str, Any]) -> bool:
    return bool(context["task"]) and tasks.find_task(context["task"]).cancel_requested


def _paused(job: JobProcess) -> bool:
    """A training is to be held: it alone takes long, and knows how to go on as if nothing had been."""
    if job.kind != TRAINING or not job.context["task"]:
        return False
    task = tasks.find_task(job.context["task"])
    return task.pause_requested and not task.cancel_requested


def _tail(folder: Path) -> str:
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text.strip()[-500:] or "it said nothing"
