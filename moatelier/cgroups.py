"""What the control groups of this process allow it: cores and memory. Version 1 and 2, and groups within groups."""

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def core_limit() -> float | None:
    """Cores that the tightest group allows, as by its quota of processor time; None without a quota."""
    found = []
    for folder in _folders("cpu"):
        told = _words(folder / "cpu.max")
        if not told:
            told = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        if len(told) == 2 and told[0] not in {"max", "-1"}:
            found.append(int(told[0]) / int(told[1]))
    return min(found, default=None)


def memory_left() -> int | None:
    """Bytes that the tightest group leaves, file pages nobody used lately counted as free; None without a limit."""
    found = []
    for folder in _folders("memory"):
        for limit, used, idle in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            told = _words(folder / limit)
            if told and told[0] != "max" and (now := _words(folder / used)):
                words = _words(folder / "memory.stat")
                stats = dict(zip(words[::2], words[1::2], strict=False))
                found.append(max(0, int(told[0]) - int(now[0]) + int(stats.get(idle, 0))))
    return min(found, default=None)


def _folders(controller: str) -> Iterator[Path]:
    """The folders of this process's groups for a controller, from its own up to the root that it can see."""
    for line in _OWN.read_text(encoding="utf-8").splitlines() if _OWN.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = _ROOT / "unified" if (_ROOT / "unified").is_dir() else _ROOT
        elif controller in controllers.split(","):
            mount = _ROOT / controller
        else:
            continue
        own = mount / path.strip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
