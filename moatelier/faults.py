"""Named places at which a test may kill a process from outside.

`MOATELIER_FAULT=checkpoint.inside,gate.after_look` makes the first process that comes by such a place write its
process id to `<home>/faults/<name>` and wait there to be killed, or to be let go by a file `<name>.go`. The file
stays, so that the restarted process goes through. Without the setting this costs one comparison.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from moatelier.settings import settings

_passed_over: ContextVar[bool] = ContextVar("passed_over", default=False)


@contextmanager
def passed_over() -> Iterator[None]:
    """Let no place within count: what runs here is a rehearsal of a job that will come by them in earnest."""
    token = _passed_over.set(True)
    try:
        yield
    finally:
        _passed_over.reset(token)


def fault_point(name: str) -> None:
    """Wait here if a test has named this place and nobody has waited here before."""
    if _passed_over.get() or name not in settings().fault.split(","):
        return
    marker = settings().home / "faults" / name
    marker.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    while not marker.with_name(f"{name}.go").exists():
        time.sleep(0.05)
