"""What this machine computes with: how many threads, and in which precision it is faster."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from moatelier import cgroups
from moatelier.job import write_atomically
from moatelier.settings import settings

Precision = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def set_threads() -> int:
    """Let torch use the threads of `settings().threads`, or as many as the process may use cores; returns them."""
    threads = settings().threads or _cores()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def choose_precision(asked: Literal["auto", "bf16", "fp32"], device: str) -> Precision:
    """The precision asked for; `auto` is bf16 on a GPU and what `probe_precision` finds on a CPU."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" else probe_precision()


def probe_precision() -> Precision:
    """Which precision this CPU is faster at, on a block's largest matrix product. Measured once a CPU model.

    Without AMX or AVX512-BF16, bfloat16 is emulated and can be several times slower than float32.
    """
    file, cpu = settings().home / "probe.json", _cpu_name()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        known = _read_probe(file)
        if cpu not in known:
            seconds = {name: _time_product(dtype) for name, dtype in DTYPES.items()}
            known[cpu] = {"seconds": seconds, "precision": min(seconds, key=lambda name: seconds[name])}
            write_atomically(file, json.dumps(known, indent=1).encode())
    return "bf16" if known[cpu]["precision"] == "bf16" else "fp32"


def _time_product(dtype: torch.dtype, tokens: int = 256, hidden: int = 576, wide: int = 1536) -> float:
    """Best of three times, in seconds, of a feed-forward layer's product forward and back."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(tokens, hidden, generator=generator).to(dtype)
    right = torch.randn(hidden, wide, generator=generator).to(dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(4):
            (left @ right) @ right.T
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _read_probe(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = dict(line.partition(":")[::2] for line in lines if line.startswith(("model name", "flags", "Features")))
    fields = {key.strip(): value.strip() for key, value in told.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    fast = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    return " ".join([platform.machine(), fields.get("model name", platform.processor()), *fast]).strip()


def _cores() -> int:
    """Cores this process may use: its affinity, and the quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroups.core_limit()
    return cores if limit is None else max(1, min(cores, int(limit)))
