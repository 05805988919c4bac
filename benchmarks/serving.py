"""The engine against what people serve a small model with; each ratio is measured within this run.

    MOATELIER_BENCH_DATA=../shared/data python -m benchmarks.serving [--quick]

Needs the pulled packs smollm2-135m-instruct and all-minilm-l6-v2. llama-cpp-python is installed, once, into an
environment of its own in the cache; it is compiled there for some minutes. `--quick` leaves out llama-cpp-python, the
thousand loads, and the scores by precision.
"""

import argparse
import gc
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import http_load, peers, router
from benchmarks.adapters import random_adapter
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from modalities.machine import set_threads
from modalities.text.model import load_base
from modalities.text.template import render
from serving.engine import Sampling, TextEngine
from store import db

BASE = "smollm2-135m-instruct"
NEW = 64
"""Tokens of each answer."""
ROUNDS = 3
TOPICS = "a fox and a river, two brothers at sea, the last baker of a town, a robot that learns to paint, "
ASK = "Write a very long and detailed story, of at least a thousand words, about "
CYCLES = 1000
console = Console(stderr=True)
Turns = list[dict[str, str]]


def questions(count: int, words: int = 0) -> list[Turns]:
    """Requests whose answers are longer than `NEW` tokens and that have little in common, of some length."""
    topics = [topic.strip() for topic in TOPICS.split(",") if topic.strip()]
    asked = [f"{n}. {ASK}{topics[n % len(topics)]}." for n in range(count)]
    filler = "It was a cold morning and nobody in the village had slept well that night. "
    return [[{"role": "user", "content": text + " " + filler * (words // 15)}] for text in asked]


def speed(engine: TextEngine, turns: Sequence[Turns], adapters: Sequence[str | None], tokens: int = NEW) -> float:
    """New tokens a second over requests that arrive together, with nothing computed before."""
    engine.blocks.clear()
    start = time.perf_counter()
    rows = [
        row
        for asked, name in zip(turns, adapters, strict=True)
        for row in engine.submit(asked, adapters=[name], sampling=Sampling(tokens))
    ]
    while any(not row.over for row in rows):
        engine.step()
    return sum(row.generated for row in rows) / (time.perf_counter() - start)


def best(measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    """The best of some rounds: what disturbs a measurement makes it slower, never faster."""
    return max(measure() for _ in range(rounds))


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description="The engine against its peers.")
    parser.add_argument("--quick", action="store_true", help="leave out the slowest parts")
    arguments = parser.parse_args()
    cache = settings().cache
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"MOATELIER_HOME": home, "MOATELIER_CACHE": str(cache)}
        settings.cache_clear()
        db.migrate()
        figures = measure(arguments.quick)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, "not run" if value is None else f"{value:.4g}")
    Console().print(table)
    print(json.dumps(figures))


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    threads = set_threads()
    base = load_base(BASE, "fp32")
    tops = [random_adapter(base, f"top{n}", n) for n in range(4)]
    wholes = {
        rank: [random_adapter(base, f"all{n}", n, first_layer=0, rank=rank) for n in range(4)] for rank in (8, 16)
    }
    header = render(base.tokenizer, [{"role": "user", "content": "x"}], True)[-3:]
    activated = [random_adapter(base, f"act{n}", n, first_layer=0, alora_invocation_tokens=header) for n in range(4)]
    figures: dict[str, float | None] = {}
    figures |= against_transformers(tops)
    figures |= against_llama_cpp(tops, threads) if not quick else {}
    figures |= adapters_cost(wholes[8], "bf16", "adapter_overhead")
    figures |= adapters_cost(wholes[16], "bf16", "adapter_overhead_rank16")
    figures |= adapters_cost(wholes[8], "int4", "adapter_overhead_int4")
    figures |= prompt_work(tops, activated)
    figures |= http_load.overhead()
    figures |= leaks(tops, 50 if quick else CYCLES)
    figures |= {"router_p95_ms": router.latency()["p95"]}
    return figures


def loaded(precision: str, digests: Sequence[str]) -> TextEngine:
    """An engine with these bundles under their digests."""
    engine = TextEngine(BASE, precision)  # type: ignore[arg-type]  # a word of the command line
    for digest in digests:
        engine.load_adapter(digest, bundle_folder(digest))
    return engine


def ours(tops: Sequence[str]) -> tuple[float, float]:
    """Tokens a second in int4: one stream of the base, eight requests over four adapters."""
    engine = loaded("int4", tops)
    names = [tops[n % 4] for n in range(8)]
    return best(lambda: speed(engine, questions(1), [None])), best(lambda: speed(engine, questions(8), names))


def against_transformers(tops: Sequence[str]) -> dict[str, float | None]:
    """One stream, and eight requests over four adapters of the top third, in int4."""
    eight, names = questions(8), [tops[n % 4] for n in range(8)]
    stream, mixed = ours(tops)
    console.print(f"ours, int4: {stream:.1f} tokens/s at one row, {mixed:.1f} at eight over four adapters")
    found: dict[str, float | None] = {"stream_tokens_s": stream, "mixed_tokens_s": mixed}
    for precision in ("fp32", "bf16"):
        base = load_base(BASE, precision)  # type: ignore[arg-type]  # one of the two
        ids = [render(base.tokenizer, turns, True) for turns in eight]
        theirs = best(lambda base=base, ids=ids: peers.generate(base.model, base, ids[:1], NEW), 2)
        found[f"stream_vs_hf_{precision}"] = stream / theirs
        console.print(f"transformers, {precision}: {theirs:.1f} at one row")
    model = peers.with_adapters(base, tops)
    after = best(lambda: peers.one_after_another(model, base, ids, names, NEW), 1)
    batch = best(lambda: peers.generate(model, base, ids, NEW, adapter_names=names), 2)
    console.print(f"PEFT, bf16: {after:.1f} one after another, {batch:.1f} by adapter_names")
    return found | {"mixed_vs_peft_sequential": mixed / after, "mixed_vs_peft_batch": mixed / batch}


def against_llama_cpp(tops: Sequence[str], threads: int) -> dict[str, float | None]:
    """Both servers over HTTP: one client, and eight clients; ours with four adapters, theirs with the base alone."""
    one, eight = questions(1), questions(8)
    port = http_load.free_port()
    with peers.llama_cpp_server(BASE, port, threads) as url:
        alone = best(lambda: http_load.tokens_per_second(url, [BASE], one, NEW))
        together = best(lambda: http_load.tokens_per_second(url, [BASE] * 8, eight, NEW), 2)
    console.print(f"llama-cpp-python: {alone:.1f} at one client, {together:.1f} at eight")
    with http_load.engine("int4", tops) as url:
        stream = best(lambda: http_load.tokens_per_second(url, [BASE], one, NEW))
        mixed = best(lambda: http_load.tokens_per_second(url, [tops[n % 4] for n in range(8)], eight, NEW))
    console.print(f"ours over HTTP, int4: {stream:.1f} at one client, {mixed:.1f} at eight over four adapters")
    return {"stream_vs_llamacpp": stream / alone, "mixed_vs_llamacpp": mixed / together}


def adapters_cost(wholes: Sequence[str], precision: str, figure: str) -> dict[str, float | None]:
    """What four adapters of all layers add to the time of eight rows."""
    eight, names = questions(8), [wholes[n % 4] for n in range(8)]
    engine, ratios = loaded(precision, wholes), []
    for _ in range(5):  # in pairs, since the machine's speed drifts
        ratios.append(decode_seconds(engine, eight, names) / decode_seconds(engine, eight, [None] * 8))
    cost = statistics.median(ratios) - 1
    console.print(f"{figure}: +{cost:.1%} at eight rows")
    return {figure: cost}


def decode_seconds(engine: TextEngine, turns: Sequence[Turns], names: Sequence[str | None]) -> float:
    """Median time of a step in which all rows decode."""
    rows = [
        engine.submit(asked, adapters=[name], sampling=Sampling(NEW))[0]
        for asked, name in zip(turns, names, strict=True)
    ]
    while not all(row.read or row.over for row in rows):
        engine.step()
    times = []
    while all(not row.over for row in rows):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    for row in rows:
        engine.cancel(row)
    return statistics.median(times)


def prompt_work(tops: Sequence[str], activated: Sequence[str]) -> dict[str, float | None]:
    """Prompt tokens times layers for four proposers at once against one request, at prompts of about 200 tokens."""
    [turns] = questions(1, 150)
    found: dict[str, float | None] = {}
    for digests, name in ((activated, "alora"), (tops, "top_third")):
        engine = loaded("int4", digests)
        work, seconds = [], []
        for asked in (digests[:1], digests):
            engine.blocks.clear()
            before, start = engine.passes.prompt_work, time.perf_counter()
            rows = [engine.submit(turns, adapters=[digest], sampling=Sampling(1))[0] for digest in asked]
            while any(not row.over for row in rows):
                engine.step()
            work.append(engine.passes.prompt_work - before)
            seconds.append(time.perf_counter() - start)
        found |= {f"{name}_prompt_work": work[1] / work[0], f"{name}_prompt_seconds": seconds[1] / seconds[0]}
    return found


def leaks(tops: Sequence[str], cycles: int) -> dict[str, float | None]:
    """Resident memory after many loads and unloads against that after the first tenth; answers by an old cache."""
    engine, process = loaded("int4", []), psutil.Process()
    [turns] = questions(1)
    said: dict[str, tuple[int, ...]] = {}
    stale, before = 0, 0
    for cycle in range(cycles):
        digest = tops[cycle % 4]
        engine.load_adapter("name", bundle_folder(digest))
        answer = engine.generate([turns], adapter="name", sampling=Sampling(4))[0].ids
        stale += said.setdefault(digest, answer) != answer
        engine.unload_adapter("name")
        if cycle == cycles // 10:
            gc.collect()
            before = process.memory_info().rss
    gc.collect()
    return {"leak_ratio": process.memory_info().rss / before, "stale_hits": float(stale)}


if __name__ == "__main__":
    main()
