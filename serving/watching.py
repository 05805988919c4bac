"""The engine, watched: what a request took, as metrics and as spans, and what the engine holds, at `/metrics`.

watching.ended(rows, context, error)        # the driver, with times that the rows have kept
watching.add_routes(app, lambda: bases.open)
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Response
from opentelemetry.context import Context
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moatelier import genai, logs, tracing
from moatelier.errors import MoatelierError
from serving import metrics
from serving.patience import Patience
from serving.row import Row


def step(begun: float, rows: Iterable[Row]) -> None:
    """A step that began at a moment of the monotonic clock has given these rows news."""
    metrics.STEP.observe(time.monotonic() - begun)
    told = sum(1 for row in rows if row.error is None)
    if told:
        metrics.ROWS.observe(told)


def ended(rows: Sequence[Row], context: Context | None, error: BaseException | None) -> None:
    """A request is over: its times, its tokens, and its spans below the span it came with."""
    for row in rows:
        metrics.ANSWERS.labels(_outcome(row, error)).inc()
        metrics.PROMPT_TOKENS.inc(row.prompt_tokens)
        metrics.TOKENS.inc(row.generated)
        if row.began is None:
            continue
        metrics.QUEUE.observe(row.began - row.arrived)
        tracing.written("engine.queue", row.arrived, row.began, {}, context)
        if row.first is None or row.last is None:
            continue
        metrics.FIRST_TOKEN.observe(row.first - row.arrived)
        prompt = {genai.INPUT_TOKENS: row.prompt_tokens, genai.ROWS: len(rows)}
        tracing.written("engine.read", row.began, row.first, prompt, context)
        if row.generated > 1:
            metrics.TOKEN.observe((row.last - row.first) / (row.generated - 1))
            tracing.written("engine.decode", row.first, row.last, {genai.OUTPUT_TOKENS: row.generated}, context)


def _outcome(row: Row, error: BaseException | None) -> str:
    why = row.error or error
    if why is None or isinstance(why, StopAsyncIteration):
        return row.finish_reason or "stop"
    return why.code if isinstance(why, MoatelierError) else MoatelierError.code


def configure() -> None:
    """Have logs and traces of this process. Raises InvalidRequest: see `tracing.configure`."""
    logs.configure("engine")
    tracing.configure("engine")


class Counted(Protocol):
    """One base with its engine."""

    @property
    def mine(self) -> Mapping[str, Any]:
        """The adapters on it by name."""

    def counts(self) -> Mapping[str, int | str]:
        """What it holds, in bytes and in things."""


HELD: Mapping[str, tuple[str, str]] = {
    "memory_limit": ("memory_limit_bytes", "Bytes that answers, cached prompts and adapters may take together."),
    "memory_used": ("memory_used_bytes", "Bytes that they take: keys and values above all."),
    "memory_held": ("memory_held_bytes", "Bytes of these that cannot be evicted now."),
    "blocks": ("kv_blocks", "Blocks of cached keys and values."),
    "running": ("running_rows", "Answers in the making."),
    "waiting": ("waiting_rows", "Answers that wait for their first step."),
    "adapters": ("adapters", "Adapters that requests may name."),
}
COUNTED: Mapping[str, tuple[str, str]] = {
    "block_hits": ("kv_block_hits", "Blocks of prompts that were found computed."),
    "block_misses": ("kv_block_misses", "Blocks that were looked for in vain."),
    "evicted": ("evictions", "Blocks and adapters that made room."),
}
"""`Pool.counts` -> the metric and what it says."""


class Held(Collector):
    """What the engines hold at the moment, by base, and what they have counted by themselves."""

    def __init__(self, open: Callable[[], Mapping[str, Counted]]) -> None:
        self._open = open

    def collect(self) -> Iterator[Metric]:
        """Families, each with a sample a base."""
        held = {base: {**pool.counts(), "adapters": len(pool.mine)} for base, pool in self._open().items()}
        for kind, names in ((GaugeMetricFamily, HELD), (CounterMetricFamily, COUNTED)):
            for key, (name, what) in names.items():
                family: Any = kind(f"moatelier_engine_{name}", what, labels=["base"])
                for base, counts in held.items():
                    if key in counts:
                        family.add_metric([base], counts[key])
                yield family


def add_routes(app: FastAPI, open: Callable[[], Mapping[str, Counted]]) -> None:
    """Serve `/metrics`, and let requests say how long they wait.

    Args:
        app: The engine's server.
        open: Base -> its engine, of those that have been opened.
    """
    held = CollectorRegistry(auto_describe=False)
    held.register(Held(open))

    app.add_middleware(Patience)

    @app.get("/metrics")
    async def scrape() -> Response:
        told = generate_latest(metrics.REGISTRY) + generate_latest(held)
        return Response(told, media_type=CONTENT_TYPE_PLAIN_0_0_4)
