"""How much memory is free for another process: the machine's, or what its control group leaves."""

import psutil

from moatelier import cgroups


def available_bytes() -> int:
    """Main memory that a new process may take without anything being swapped or killed."""
    free, left = int(psutil.virtual_memory().available), cgroups.memory_left()
    return free if left is None else min(free, left)


def gigabytes(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB"
