"""Runs one program under limits; started by `training.sandbox` as a process of its own, imports nothing of ours.

Standard input holds JSON: `code`, `seconds` of processor time, `memory_mb` of address space, and `word`, which is
printed when the code has run to its end.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

_NEW_USER, _NEW_NET, _NEW_PID = 0x10000000, 0x40000000, 0x20000000
_NOBODY = 65534
_FILE_BYTES, _FILES, _PROCESSES = 2**20, 64, 64


def go_apart() -> None:
    """Leave the machine's network and its processes, where the system lets us.

    A network of our own has not even a loopback; of processes of our own none outlives the first, which goes on here.
    """
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None or unshare(_NEW_USER | _NEW_NET | _NEW_PID) != 0:
        return
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def drop_rights() -> None:
    """Go on as nobody, where we are root and nobody may read Python's own library."""
    library = Path(os.__file__).resolve()
    if os.geteuid() == 0 and all(place.stat().st_mode & 0o005 == 0o005 for place in library.parents):
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def limit(seconds: float, memory_mb: int) -> None:
    """Set what the system enforces by itself."""
    most = max(1, round(seconds))
    bounds = {
        resource.RLIMIT_CPU: most,
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_NPROC: _PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for what, bound in bounds.items():
        resource.setrlimit(what, (bound, bound))


def main() -> None:
    """Read, limit, run, and say the word."""
    told = json.load(sys.stdin)
    drop_rights()
    go_apart()
    limit(told["seconds"], told["memory_mb"])
    code, word = compile(told["code"], "answer", "exec"), told.pop("word")
    exec(code, {"__name__": "__main__"})
    os.write(1, word.encode())


if __name__ == "__main__":
    main()
