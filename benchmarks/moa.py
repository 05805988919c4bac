"""A Mixture of Agents: what it adds to its models' own time, how soon it speaks, and what a faulty proposer does to it.

    python -m benchmarks.moa --quick

Everything here is measured on fakes that answer at once, so it needs no model and takes about a minute: the graph by
itself, a whole service over loopback, and an endpoint whose models fail in eight ways.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api.app import create_app
from graphs.answering import answering
from moatelier.settings import settings
from store import db, keys
from tests.api import fake_engine
from tests.api.conftest import make_adapter
from tests.api.running import running
from tests.deciding import let_through
from tests.faulty import FAULTS, Models, serving
from tests.graphs.mixing import FakeBackend, answers, mixture

ROUNDS, STREAMS, REQUESTS, AT_ONCE = 500, 50, 200, 20
console = Console()


def graph_ms() -> tuple[float, float, float]:
    """p50 and p95 in milliseconds of route -> four proposers -> vote, and the milliseconds of 200 at once."""
    proposers = [{"adapter": name} for name in "abcd"]
    made = mixture({"name": "four", "layers": [{"proposers": proposers}], "aggregator": {"kind": "vote"}})
    asked = [{"role": "user", "content": "where is it"}]

    async def scene() -> tuple[float, float, float]:
        face, times = answers(FakeBackend(lambda payload: "parcel"), {"a": 0.7, "base": 0.3}), []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await face.answer(made, asked)
            times.append(1000 * (time.perf_counter() - begun))
        begun = time.perf_counter()
        await asyncio.gather(*(face.answer(made, asked) for _ in range(REQUESTS)))
        together = 1000 * (time.perf_counter() - begun)
        return statistics.median(times), statistics.quantiles(times, n=20)[-1], together

    return asyncio.run(scene())


def first_event_ms() -> tuple[float, float]:
    """p50 and p95 in milliseconds from a streamed request to the first progress event, through a whole API."""
    db.migrate()
    key = keys.ensure_admin()
    proposers = [{"adapter": make_adapter(f"a{seed}", seed=seed).digest} for seed in range(4)]
    recipe = {"name": "four", "layers": [{"proposers": proposers}], "aggregator": {"kind": "vote"}}
    body = {"model": "moa/four", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        with httpx.Client(base_url=url, headers={"x-api-key": key}) as client:
            kept = client.post("/v1/moa", json={"yaml": json.dumps(recipe)}).json()
            let_through("four", kept["digest"])
            warm = body | {"messages": [{"role": "user", "content": "hello"}], "stream": False}
            client.post("/v1/chat/completions", json=warm).raise_for_status()  # loads the adapters
            times = sorted(_first(client, body) for _ in range(STREAMS))
    return statistics.median(times), times[int(0.95 * STREAMS)]


def _first(client: httpx.Client, body: dict[str, Any]) -> float:
    begun = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if '"progress"' in line:
                return 1000 * (time.perf_counter() - begun)
    raise SystemExit("a stream ended without a progress event")


def faulty_proposer_success() -> dict[str, float]:
    """Fault -> the share of 200 requests that are answered rightly with one of four proposers faulty so."""

    async def scene(fault: str) -> float:
        proposers = [{"upstream": "fakes", "model": name} for name in ("well-1", fault, "well-2", "well-3")]
        made = mixture({"name": "four", "layers": [{"proposers": proposers}], "aggregator": {"kind": "vote"}})
        turns = asyncio.Semaphore(AT_ONCE)
        async with serving(Models()) as url:
            os.environ["MOATELIER_UPSTREAMS"] = json.dumps({"fakes": {"url": url, "concurrency": REQUESTS}})
            settings.cache_clear()
            async with answering("http://127.0.0.1:9") as face:

                async def one() -> bool:
                    async with turns:
                        trace = await face.answer(made, [{"role": "user", "content": "where is it"}])
                        return trace.text == "parcel"

                found = await asyncio.gather(*(one() for _ in range(REQUESTS)), return_exceptions=True)
        return sum(one is True for one in found) / REQUESTS

    return {fault: asyncio.run(scene(fault)) for fault in FAULTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only what needs no model; there is nothing else yet")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOATELIER_HOME"] = folder
        middle, late, together = graph_ms()
        first, first_late = first_event_ms()
        shares = faulty_proposer_success()
    table = Table("", "", title="a Mixture of Agents on fakes", title_justify="left")
    table.add_row("route, four proposers, vote", f"p50 {middle:.2f} ms, p95 {late:.2f} ms")
    table.add_row(f"{REQUESTS} of them at once", f"{together:.0f} ms")
    table.add_row("first progress event", f"p50 {first:.1f} ms, p95 {first_late:.1f} ms")
    for fault, share in shares.items():
        table.add_row(f"one of four proposers: {fault}", f"{share:.1%} of {REQUESTS} answered rightly")
    console.print(table)
    figures = {
        "graph_p50_ms": middle,
        "first_event_ms": first_late,
        "faulty_proposer_success": min(shares.values()),
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
