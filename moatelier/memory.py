"""How much memory is free for another process: the machine's, or what its control group leaves."""

from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Main memory that a new process may take without anything being swapped or killed."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return free
        used = int((_GROUP / "memory.current").read_text(encoding="utf-8"))
        told = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        # Pages of files that nobody used lately are given back when memory is short.
        return min(free, max(0, int(limit) - used + int(told.get("inactive_file", 0))))
    except (OSError, ValueError):
        return free


def gigabytes(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB"
