"""A Mixture of Agents: what it adds to its models' own time, how soon it speaks, what a fault does, what it wins.

    python -m benchmarks.moa --quick
    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.moa [--sources seeds,shards,ranks,methods] [--most ROWS]
    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.moa --only mixed [--each ROWS]

It has three parts, and `--only` runs one of them.

quick    on fakes that answer at once, so it needs no model and takes about a minute: the graph by itself, a whole
         service over loopback, and an endpoint whose models fail in eight ways
within   trains four adapters for each source of difference on all 77 banking77 intents and asks them, alone and
         together (benchmarks/within.py): about half an hour a source on two cores
mixed    seven narrow domains, the domain hidden: routing and recipes beside one pooled adapter, a merge, samples and
         both oracles (benchmarks/mixed.py)

The last two need the pulled pack smollm2-135m-instruct, the last one all-minilm-l6-v2 as well.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api.app import create_app
from benchmarks import mixed, within
from benchmarks.mixed_rows import Sizes
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


def quick() -> dict[str, float]:
    """What needs no model."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOATELIER_HOME"] = folder
        settings.cache_clear()
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
    return {
        "graph_p50_ms": middle,
        "first_event_ms": first_late,
        "faulty_proposer_success": min(shares.values()),
    }


def with_pack(parts: Sequence[Callable[[Path], dict[str, float]]]) -> dict[str, float]:
    """What needs the pack: each part is handed the folder of banking77, and all share one empty data directory."""
    folder, cache = settings().bench_data, settings().cache
    if folder is None:
        raise SystemExit("Set MOATELIER_BENCH_DATA to the folder with banking77/.")
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"MOATELIER_HOME": home, "MOATELIER_CACHE": str(cache)}
        settings.cache_clear()
        db.dispose()  # the quick part's database is gone
        db.migrate()
        found = [part(folder / "banking77") for part in parts]
    return {name: value for figures in found for name, value in figures.items()}


def within_one(folder: Path, sources: Sequence[str], most: int | None) -> dict[str, float]:
    """The time of a mixture against one request, and what it wins within one domain."""
    wall = within.wall_vs_one(settings().base)
    found = []
    for name in sources:
        found.append(within.source(folder, settings().base, name, "int4", most))
        console.print(found[-1])  # at once: a source takes from a quarter to half an hour
    names = [name for name in found[0] if name != "source"]
    table = Table("", *(str(one["source"]) for one in found), title="77 intents, four adapters", title_justify="left")
    for name in names:
        table.add_row(name, *(_shown(one[name]) for one in found))
    console.print(table)
    best = max(found, key=lambda one: float(one["gain_low"]))
    return {
        "moa_wall_vs_one": wall,
        "moa_gain_points": best["gain_points"],
        "moa_gain_low": best["gain_low"],
        "moa_gain_wall_vs_one": best["wall_vs_one"],
        "share_of_oracle": best["share_of_oracle"],
    }


def over_several(folder: Path, each: int | None) -> dict[str, float]:
    """What routing and recipes win over seven domains."""
    sizes = Sizes() if each is None else Sizes()._replace(test=each)
    return mixed.trial(folder, settings().base, "int4", sizes)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print tables, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", dest="only", action="store_const", const="quick", help="the same as --only quick")
    parser.add_argument("--only", choices=("quick", "within", "mixed"), help="only this part")
    parser.add_argument("--sources", default=",".join(within.SOURCES), help="what makes the four adapters differ")
    parser.add_argument("--most", type=int, help="within: so many test rows at most, those that choose included")
    parser.add_argument("--each", type=int, help="mixed: so many test rows of each domain, 200 at most")
    arguments = parser.parse_args()
    packed: dict[str, Callable[[Path], dict[str, float]]] = {
        "within": lambda folder: within_one(folder, arguments.sources.split(","), arguments.most),
        "mixed": lambda folder: over_several(folder, arguments.each),
    }
    asked = [part for name, part in packed.items() if arguments.only in (None, name)]
    figures = quick() if arguments.only in (None, "quick") else {}
    figures |= with_pack(asked) if asked else {}
    print(json.dumps({name: round(float(value), 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
