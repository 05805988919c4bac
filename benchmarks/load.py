"""The service under load: what the API adds, what it refuses, and how it answers beside a training.

    python -m benchmarks.load [--quick] [--only streams,overload,training]

streams    200 open streams and 50 short chats a second for 5 minutes, before an engine that waits instead of
           computing (benchmarks/waiting_engine.py). Each chat is sent through the API and then to the engine itself:
           the difference is the overhead. Memory is the api's, the last fifth of the time over the second fifth.
overload   the same rate before an engine that answers half as many, with 64 places and 64 waiting
training   the real engine and a real training, as the worker starts it, on all cores: /healthz and short chats
           meanwhile, and before for comparison. Needs the pulled pack of the base.

`--quick` takes seconds for each. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.http_load import free_port
from benchmarks.peers import wait_until_it_answers
from moatelier.settings import settings
from store import db

OPEN, RATE = 200, 50.0
"""Streams, and chats a second."""
PLACES = {"MOATELIER_IN_FLIGHT": "64", "MOATELIER_QUEUE": "64", "MOATELIER_QUEUE_WAIT_S": "2"}
HEALTH_RATE = 10.0
console = Console(stderr=True)
Figures = dict[str, float | None]


@contextmanager
def process(module: str, url: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours once it answers at `<url>/healthz`."""
    command = [sys.executable, "-m", module, *arguments]
    started = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=log())
    try:
        wait_until_it_answers(f"{url}/healthz", started)
        yield started
    finally:
        started.terminate()
        started.wait()


def log() -> int:
    """Where the processes write their lines: beside the data, so that only figures are printed."""
    return os.open(settings().home / "load.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@dataclass
class Service:
    """An api process before some engine."""

    url: str
    engine: str
    api: psutil.Process

    @property
    def body(self) -> dict[str, object]:
        """A short chat."""
        return {"model": settings().base, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}


@contextmanager
def service(module: str, *arguments: str, **environment: str) -> Iterator[Service]:
    """The api before an engine of this module, which is told its port."""
    port, engine_port = free_port(), free_port()
    url, engine = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{engine_port}"
    own = {"MOATELIER_PORT": str(port), "MOATELIER_ENGINE_PORT": str(engine_port)} | environment
    given = [*arguments, "--port", str(engine_port)] if module != "serving.pool" else []
    with process(module, engine, *given, **own), process("api.app", url, **own) as api:
        yield Service(url, engine, psutil.Process(api.pid))


@asynccontextmanager
async def connected() -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of the data directory and as many connections as it likes."""
    key = (settings().home / "keys" / "admin.key").read_text().strip()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False, headers=headers) as client:
        yield client


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return quantiles(values, n=20)[18]


@dataclass
class Seen:
    """What became of the requests of one part."""

    milliseconds: list[float] = field(default_factory=list)
    """Of answered ones, or what they took longer than their pair."""
    refused: int = 0
    """With 429 and `retry-after`."""
    errors: int = 0
    rss: list[int] = field(default_factory=list)
    busy: float = 0.0
    """Cores that the api used."""


async def paced(rate: float, seconds: float, one: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start `one()` so many times a second, whether or not the earlier ones have ended; wait for all."""
    begun, tasks = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)


async def timed(client: httpx.AsyncClient, url: str, body: dict[str, object] | None) -> tuple[httpx.Response, float]:
    """A response and its milliseconds."""
    begun = time.perf_counter()
    answer = await (client.get(url) if body is None else client.post(url, json=body))
    return answer, 1e3 * (time.perf_counter() - begun)


# ------------------------------------------------------------------------------------------------------------ streams


async def hold(client: httpx.AsyncClient, at: Service, seen: Seen, words: list[int], place: int) -> None:
    """One stream that stays open; it counts as an error when it ends before it is cancelled."""
    asked = at.body | {"stream": True, "messages": [{"role": "user", "content": "hold"}]}
    await asyncio.sleep(place / OPEN)  # people do not come in step: their words shall not either
    try:
        async with client.stream("POST", f"{at.url}/v1/chat/completions", json=asked) as answer:
            answer.raise_for_status()
            async for _ in answer.aiter_raw():
                words[place] += 1
    except httpx.HTTPError as error:
        console.print(f"a stream failed: {error!r}")
    seen.errors += 1


async def streams(at: Service, seconds: float) -> Seen:
    """Streams stay open while chats come and go; see the module."""
    seen, words = Seen(), [0] * OPEN
    async with connected() as client:
        held = [asyncio.create_task(hold(client, at, seen, words, place)) for place in range(OPEN)]
        while min(words) == 0 and not seen.errors:
            await asyncio.sleep(0.1)

        async def pair() -> None:
            try:
                through, mine = await timed(client, f"{at.url}/v1/chat/completions", at.body)
                direct, its = await timed(client, f"{at.engine}/v1/chat/completions", at.body)
            except httpx.HTTPError as error:
                console.print(f"a chat failed: {error!r}")
                seen.errors += 1
                return
            seen.errors += through.status_code != 200 or direct.status_code != 200
            seen.milliseconds.append(mine - its)

        async def watch() -> None:
            while True:
                seen.rss.append(at.api.memory_info().rss)
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        before, busy = list(words), sum(at.api.cpu_times()[:2])
        await paced(RATE, seconds, pair)
        seen.busy = (sum(at.api.cpu_times()[:2]) - busy) / seconds
        watching.cancel()
        silent = sum(now - then < seconds / 2 for now, then in zip(words, before, strict=True))
        seen.errors += silent
        for task in held:
            task.cancel()
        await asyncio.gather(*held, watching, return_exceptions=True)
    return seen


def growth(rss: list[int]) -> float:
    """Memory of the last fifth of the time over the second fifth, less one."""
    fifth = max(1, len(rss) // 5)
    return median(rss[-fifth:]) / median(rss[fifth : 2 * fifth] or rss[:1]) - 1


def under_streams(quick: bool) -> Figures:
    """Figures of `streams`."""
    with service("benchmarks.waiting_engine") as at:
        seen = asyncio.run(streams(at, 10 if quick else 300))
    return {
        "overhead_p95_ms": p95(seen.milliseconds),
        "overhead_p50_ms": median(seen.milliseconds),
        "errors": seen.errors,
        "rss_growth": growth(seen.rss),
        "rss_mb": seen.rss[-1] / 1e6,
        "api_cores": seen.busy,
    }


# ----------------------------------------------------------------------------------------------------------- overload


async def overload(at: Service, seconds: float) -> Seen:
    """Twice as many chats as the engine can answer."""
    seen = Seen()
    async with connected() as client:

        async def ask() -> None:
            try:
                answer, took = await timed(client, f"{at.url}/v1/chat/completions", at.body)
            except httpx.HTTPError as error:
                console.print(f"a chat failed: {error!r}")
                seen.errors += 1
                return
            if answer.status_code == 200:
                seen.milliseconds.append(took)
            elif answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1:
                seen.refused += 1
            else:
                seen.errors += 1

        await paced(RATE, seconds, ask)
    return seen


def under_overload(quick: bool) -> Figures:
    """Figures of `overload`."""
    slow = ["--lanes", "1", "--seconds", str(2 / RATE)]
    with service("benchmarks.waiting_engine", *slow, **PLACES) as at:
        seen = asyncio.run(overload(at, 12 if quick else 60))
    return {
        "overload_refused_share": seen.refused / (seen.refused + len(seen.milliseconds) + seen.errors),
        "overload_errors": seen.errors,
        "overload_longest_s": max(seen.milliseconds) / 1e3,
    }


# ----------------------------------------------------------------------------------------------------------- training


async def asked(at: Service, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of `/healthz`, ten times a second, and of short chats, one after the other."""
    healths: list[float] = []
    chats: list[float] = []
    async with connected() as client:

        async def look() -> None:
            answer, took = await timed(client, f"{at.url}/healthz", None)
            answer.raise_for_status()
            healths.append(took)

        async def talk() -> None:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end or len(chats) < 2:
                answer, took = await timed(client, f"{at.url}/v1/chat/completions", at.body)
                answer.raise_for_status()
                chats.append(took)

        await asyncio.gather(paced(HEALTH_RATE, seconds, look), talk())
    return healths, chats


@contextmanager
def training() -> Iterator[None]:
    """A training that has begun its steps, started as the worker starts it; ended at the end."""
    from benchmarks import tuning  # noqa: PLC0415  (imports torch, which the other parts do without)
    from graphs.processes import JobProcess  # noqa: PLC0415
    from moatelier.contracts import TrainSpec  # noqa: PLC0415

    lines = Path("examples/support.csv").read_text(encoding="utf-8").splitlines()[1:]
    card = tuning.card_of(tuning.rows_of([tuple(line.rsplit(",", 1)) for line in lines]))  # type: ignore[misc]
    spec = TrainSpec(base=settings().base, dataset=card, suffix="load", **(tuning.RECIPE | {"epochs": 1000.0}))
    job = JobProcess("train-load", "train", {})
    job.folder.mkdir(parents=True)
    (job.folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    job.start()
    assert job.process is not None
    events = job.folder / "events.jsonl"
    try:
        while not (events.exists() and '"train"' in events.read_text(encoding="utf-8")):
            assert job.process.poll() is None, (job.folder / "log.txt").read_text()
            time.sleep(0.2)
        yield
        assert job.process.poll() is None, "the training ended too early"
    finally:
        job.stop(grace_s=5)
        job.close()


def under_training(quick: bool) -> Figures:
    """Figures of `training`."""
    seconds = 8 if quick else 60
    with service("serving.pool") as at:
        asyncio.run(asked(at, 2))  # loads the base
        health, chat = asyncio.run(asked(at, seconds))
        with training():
            health_then, chat_then = asyncio.run(asked(at, seconds))
    return {
        "health_p95_ms": p95(health),
        "chat_p95_ms": p95(chat),
        "health_p95_ms_while_training": p95(health_then),
        "chat_p95_ms_while_training": p95(chat_then),
    }


PARTS = {"streams": under_streams, "overload": under_overload, "training": under_training}


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description="The service under load.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--only", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    given = parser.parse_args()
    cache = settings().cache
    figures: Figures = dict.fromkeys(
        "overhead_p95_ms errors rss_growth health_p95_ms_while_training chat_p95_ms_while_training".split()
    )
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"MOATELIER_HOME": home, "MOATELIER_CACHE": str(cache), "MOATELIER_THREADS": "0"}
        os.environ.pop("OMP_NUM_THREADS", None)  # the training shall have all cores
        settings.cache_clear()
        db.migrate()
        for name in given.only.split(","):
            figures |= PARTS[name](given.quick)
            console.print(f"{name} is done")
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "not run" if value is None else f"{value:.4g}")
    Console().print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
