"""Text on real data: quality, training time, memory, and what the API adds to the engine's time.

    MOATELIER_BENCH_DATA=FOLDER python -m benchmarks.text [--quick]

Reads `banking77/{train,test}.csv` (columns text, category) from that folder. Each task is one sentence to the command
line of a fresh service, as a user would send it; `--quick` leaves out the task with all 77 intents.
"""

import argparse
import csv
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from moatelier.settings import settings

ELEVEN = (
    "card_arrival lost_or_stolen_card exchange_rate cancel_transfer top_up_failed pin_blocked age_limit "
    "verify_my_identity cash_withdrawal_charge change_pin country_support"
).split()
ROWS_AN_INTENT = 40
SAY_11 = "Train a classifier that predicts category from text, at least 95% accuracy, at most 3 minutes of training"
SAY_77 = (
    "Train a classifier that predicts category from text, macro F1 of at least 0.85, at most 30 minutes of training"
)
SAY_LONG = (
    "Train a classifier that predicts category from text, at least 50% accuracy, at most 1 trial, 3 minutes of training"
)
CHATS = 100
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    """A CSV's rows."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Rows, path: Path) -> Path:
    """Rows as a CSV `text,category`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["text", "category"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def few(rows: Rows, intents: list[str], each: int) -> Rows:
    """The first `each` rows of each intent."""
    return [row for intent in intents for row in [r for r in rows if r["category"] == intent][:each]]


def long_rows(rows: Rows) -> Rows:
    """Rows of about 128 tokens: several messages of one intent glued together."""
    made = []
    for intent in ELEVEN[:3]:
        texts = [row["text"] for row in rows if row["category"] == intent]
        for start in range(40):
            made.append({"text": " ".join(texts[(start + 7 * n) % len(texts)] for n in range(8)), "category": intent})
    return made


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def service(home: Path) -> Iterator[dict[str, str]]:
    """A service on a data directory of its own; the environment in which the command line finds it."""
    port, engine_port = free_ports(2)
    own = {"MOATELIER_HOME": str(home), "MOATELIER_PORT": str(port), "MOATELIER_ENGINE_PORT": str(engine_port)}
    environment = {**os.environ, **own}
    process = subprocess.Popen([sys.executable, "-m", "moatelier.cli", "serve"], env=environment, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit("the service did not become ready")
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        process.wait()


def task(environment: dict[str, str], words: str, train: Path, test: Path | None) -> dict[str, Any]:
    """One task by the command line; its result with the wall-clock seconds."""
    command = [sys.executable, "-m", "moatelier.cli", "task", words, "--file", str(train), "--yes", "--json"]
    start = time.monotonic()
    done = subprocess.run(
        command + (["--test", str(test)] if test else []),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind": "result"')]
    if not results or "point" not in results[0]:
        raise SystemExit(f"the task failed: {done.stdout[-2000:]}")
    return {**results[0], "wall_s": time.monotonic() - start}


def engine_rss_gb(port: str) -> float:
    """Resident memory of the engine process that listens on a port."""
    for process in psutil.process_iter(["cmdline", "environ", "memory_info"]):
        info = process.info
        if "serving.pool" in (info["cmdline"] or []) and (info["environ"] or {}).get("MOATELIER_ENGINE_PORT") == port:
            return float(info["memory_info"].rss) / 1e9
    raise SystemExit("there is no engine process")


def overhead_p95_ms(environment: dict[str, str], model: str, digest: str, texts: list[str]) -> dict[str, float]:
    """The same short requests to the API and straight to its engine, in turn, in one run.

    Returns:
        The p95 of the pairwise difference, and both medians, in milliseconds.
    """
    key = (Path(environment["MOATELIER_HOME"]) / "keys" / "admin.key").read_text().strip()
    api = f"http://127.0.0.1:{environment['MOATELIER_PORT']}/v1"
    engine = f"http://127.0.0.1:{environment['MOATELIER_ENGINE_PORT']}/v1"
    with httpx.Client(timeout=60, headers={"Authorization": f"Bearer {key}"}) as client:

        def ask(url: str, name: str, text: str) -> float:
            body = {"model": name, "max_tokens": 2, "messages": [{"role": "user", "content": text}]}
            start = time.perf_counter()
            client.post(f"{url}/chat/completions", json=body).raise_for_status()
            return (time.perf_counter() - start) * 1e3

        ask(api, model, texts[0])
        served = next(m["id"] for m in client.get(f"{engine}/models").json()["data"] if digest[:8] in m["id"])
        through, direct = [], []
        for number in range(CHATS):
            pair = [(through, api, model), (direct, engine, served)]
            for kept, url, name in pair if number % 2 else pair[::-1]:
                kept.append(ask(url, name, texts[number % len(texts)]))
    # Means of blocks of ten pairs: one pair differs by more than the API costs, since generation itself is noisy.
    blocks = [sum(through[i : i + 10]) / 10 - sum(direct[i : i + 10]) / 10 for i in range(0, CHATS, 10)]
    return {
        "overhead_p95_ms": quantiles(blocks, n=20)[18],
        "api_p50_ms": quantiles(through, n=2)[0],
        "engine_p50_ms": quantiles(direct, n=2)[0],
    }


def main() -> None:
    """Run the tasks, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description="Text on real data.")
    parser.add_argument("--quick", action="store_true", help="leave out the task with all 77 intents")
    arguments = parser.parse_args()
    if settings().bench_data is None:
        raise SystemExit("Set MOATELIER_BENCH_DATA to the folder with banking77/.")
    folder = settings().bench_data / "banking77"
    train, test = read(folder / "train.csv"), read(folder / "test.csv")
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        with service(here / "home") as environment:
            figures = measure(environment, train, test, here, arguments.quick)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "not run" if value is None else f"{value:.4g}")
    Console().print(table)
    print(json.dumps(figures))


def measure(environment: dict[str, str], train: Rows, test: Rows, here: Path, quick: bool) -> dict[str, float | None]:
    """All figures."""
    eleven = few(train, ELEVEN, ROWS_AN_INTENT)
    random.Random(0).shuffle(eleven)
    locked = few(test, ELEVEN, ROWS_AN_INTENT)
    small = task(environment, SAY_11, write(eleven, here / "train11.csv"), write(locked, here / "test11.csv"))
    long = task(environment, SAY_LONG, write(long_rows(train), here / "long.csv"), None)
    latency = overhead_p95_ms(environment, small["model"], small["adapter"], [row["text"] for row in locked])
    figures: dict[str, float | None] = {
        "acc_11": small["point"],
        "train_s_11": small["train_seconds"],
        "wall_s_11": small["wall_s"],
        "f1_77": None,
        "train_s_77": None,
        "wall_s_77": None,
        "train_peak_gb": long["train_peak_bytes"] / 1e9,
        "engine_idle_gb": engine_rss_gb(environment["MOATELIER_ENGINE_PORT"]),
        **latency,
    }
    if not quick:
        large = task(environment, SAY_77, write(train, here / "train77.csv"), write(test, here / "test77.csv"))
        figures |= {"f1_77": large["point"], "train_s_77": large["train_seconds"], "wall_s_77": large["wall_s"]}
    return figures


if __name__ == "__main__":
    main()
