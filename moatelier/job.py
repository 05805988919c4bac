"""The folder in which a job's process and its worker meet.

A job is `python -m <module> --spec spec.json --folder DIR`, in a process group of its own. It talks through files
only, so that it needs no database and may outlive, or be outlived by, the worker that started it:

    spec.json      what to do, written by the worker
    lock           held by the process while it lives; a successor waits for it
    heartbeat      touched every second
    events.jsonl   one JSON object a line: {"kind", "step", "body"}; the worker copies them to the event log
    result.json    written once, atomically, when all is done
    error.json     a MoatelierError.to_dict(), when it cannot be done
    cancelled      there when a person has cancelled the job: what is asked to stop will not be asked to go on

SIGTERM asks the process to save what it has and leave. When the pipe to its worker closes, it leaves as well.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from moatelier.errors import Cancelled, MoatelierError, ResourceExhausted

WORKER_PIPE = "MOATELIER_WORKER_PIPE"
"""Environment variable with the file descriptor whose end means that the worker is gone."""
CANCELLED = "cancelled"
"""The file in a job's folder that says that a person has cancelled it."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _no_room(error, path) from error


def _no_room(error: OSError, path: Path) -> ResourceExhausted:
    return ResourceExhausted(
        f"Writing failed: {error.strerror}.", where=str(path), remedy="Free some disk space and try again."
    )


class Job:
    """A job's process, seen from inside: its spec, its events, and whether it should stop.

    Args:
        folder: The job's folder; made when missing.
        quiet: Print no events to the terminal.
        rank: Its number among the job's processes, where a launcher has started several; only 0 writes anything.
    """

    def __init__(self, folder: Path, *, quiet: bool = False, rank: int | None = None) -> None:
        self.folder, self.quiet = folder, quiet
        self.began = time.time()
        """When the process that works on it was started."""
        self.stop_reason = ""
        self.launched, self.leads = rank is not None, not rank
        folder.mkdir(parents=True, exist_ok=True)
        self._events = folder / "events.jsonl"
        if self.leads:
            self._drop_half_line()

    def _drop_half_line(self) -> None:
        # A killed predecessor may have left half a line; the next event must not be glued to it.
        if self._events.exists():
            data = self._events.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(self._events, data.rfind(b"\n") + 1)

    def emit(self, kind: str, step: int = 0, **body: Any) -> None:
        """Append an event. (kind, step) is its identity within the job: a repeat is dropped by the reader."""
        if not self.leads:
            return
        line = json.dumps({"kind": kind, "step": step, "body": body}, ensure_ascii=False)
        try:
            with self._events.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            with suppress(OSError):
                self._drop_half_line()
            raise _no_room(error, self._events) from error
        if not self.quiet:
            print(line, flush=True)

    @property
    def should_stop(self) -> bool:
        """Someone sent SIGTERM or the worker is gone: save and leave by `check()`."""
        return bool(self.stop_reason)

    @property
    def cancelled(self) -> bool:
        """A person has cancelled it: nobody will go on from what is saved, so leave something that can be used."""
        return (self.folder / CANCELLED).exists()

    def check(self) -> None:
        """Raise `Cancelled` if the job was asked to stop. Call it after saving, between units of work."""
        if self.should_stop:
            raise Cancelled(f"The job was stopped: {self.stop_reason}.", where=str(self.folder))

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; from then on the job is done for good."""
        if self.leads:
            write_atomically(self.folder / "result.json", json.dumps(result, ensure_ascii=False).encode())

    def watch(self) -> None:
        """Start the heartbeat, react to SIGTERM, and follow the pipe to the worker."""
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_stop("SIGTERM"))
        threading.Thread(target=self._beat, daemon=True).start()
        if pipe := os.environ.pop(WORKER_PIPE, ""):
            threading.Thread(target=self._follow_pipe, args=(int(pipe),), daemon=True).start()

    def _ask_to_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def _beat(self) -> None:
        while True:
            (self.folder / "heartbeat").touch()
            time.sleep(1)

    def _follow_pipe(self, descriptor: int) -> None:
        while os.read(descriptor, 1):
            pass
        self._ask_to_stop("its worker is gone")
        time.sleep(20)  # a unit of work that takes longer than this is lost; its last checkpoint is not
        os._exit(3)


def main(module: str, work: Callable[[dict[str, Any], Job], dict[str, Any]]) -> None:
    """Entry point of every job module: read the spec, hold the lock, work, leave result.json or error.json.

    Exit status: 0 done, 1 failed (error.json says why), 3 stopped before the end.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--spec", type=Path, required=True, help="JSON file with what to do")
    parser.add_argument("--folder", type=Path, help="the job's folder (default: beside the spec)")
    parser.add_argument("--quiet", action="store_true", help="print no events")
    arguments = parser.parse_args()
    folder: Path = arguments.folder or arguments.spec.resolve().parent / arguments.spec.stem
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ["RANK"]) if "RANK" in os.environ else None
    if rank:
        if (folder / "result.json").exists():
            return
        job = Job(folder, quiet=True, rank=rank)  # the first of the job's processes has the lock
        job.watch()
        sys.exit(_run(job, work, arguments.spec))
    with FileLock(folder / "lock"):
        if (folder / "result.json").exists():
            return
        # It mends the events, so not while a predecessor may be writing one.
        job = Job(folder, quiet=arguments.quiet, rank=rank)
        job.began = psutil.Process().create_time()  # importing what a job needs takes seconds
        (folder / "error.json").unlink(missing_ok=True)
        job.watch()
        sys.exit(_run(job, work, arguments.spec))


def _run(job: Job, work: Callable[[dict[str, Any], Job], dict[str, Any]], spec: Path) -> int:
    try:
        job.finish(work(json.loads(spec.read_text(encoding="utf-8")), job))
        return 0
    except Cancelled:
        return 3
    except MoatelierError as error:
        failure = error.to_dict()
    except Exception as error:
        traceback.print_exc()
        failure = {"code": "job_failed", "what": f"{type(error).__name__}: {error}", "where": str(job.folder)}
    print(json.dumps(failure, ensure_ascii=False), file=sys.stderr)
    if job.leads:
        write_atomically(job.folder / "error.json", json.dumps(failure, ensure_ascii=False).encode())
    return 1
