"""Programs that a model wrote, run apart: a process with limits on time, memory, files and processes, without network.

Where the system allows it (Linux with user namespaces), the process leaves the machine's network and sees no processes
but its own, of which none outlives it. It goes on as nobody where the service runs as root, has an empty environment
and a folder of its own that is removed. Not covered: it may read what the account, or nobody, may read, and a program
that sets out to cheat may find the word that proves its end. Who trains on hostile prompts should run the service in a
container.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("sandboxed.py")
_WALL = 3.0
"""Wall time against processor time: a program that sleeps uses none."""
_AT_ONCE = 4


def run_all(programs: Sequence[str], *, seconds: float, memory_mb: int) -> list[bool]:
    """Which of the programs run to their end; see `run`."""
    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda code: run(code, seconds=seconds, memory_mb=memory_mb), programs))


def run(code: str, *, seconds: float, memory_mb: int) -> bool:
    """Whether a Python program runs to its end without an exception and within its limits.

    Args:
        code: The program; asserts are what a unit test is.
        seconds: Of processor time; of wall time it gets thrice that.
        memory_mb: Of address space.
    """
    word = secrets.token_hex(16)
    told = json.dumps({"code": code, "seconds": seconds, "memory_mb": memory_mb, "word": word})
    with tempfile.TemporaryDirectory(prefix="moatelier-answer-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)  # the process may not be us any more
        said = Path(folder) / ".said"
        with said.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_LAUNCHER)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
        try:
            process.communicate(told.encode(), timeout=_WALL * seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        return process.returncode == 0 and said.read_bytes()[-len(word) :] == word.encode()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Whatever is left of its process group: what it started must not outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
