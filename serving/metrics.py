"""What the engine's process counts, as Prometheus reads it. Who observes what of a request is in watching.py.

Labels come from closed sets: our bases, our error codes. Names of adapters are none: there is no end to them.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BATCH = (1, 2, 4, 8, 16, 32, 64)

ProcessCollector(namespace="moatelier_engine", registry=REGISTRY)


def _seconds(name: str, what: str, labels: Sequence[str] = ()) -> Histogram:
    return Histogram(f"moatelier_engine_{name}_seconds", what, labels, buckets=SECONDS, registry=REGISTRY)


def _counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(f"moatelier_engine_{name}_total", what, labels, registry=REGISTRY)


ANSWERS = _counter("answers", "Answers that have ended: stop, length, or the code of what went wrong.", ["outcome"])
FIRST_TOKEN = _seconds("time_to_first_token", "From a request's arrival to its first token.")
TOKEN = _seconds("time_per_token", "Mean time between the tokens of an answer.")
QUEUE = _seconds("queue", "From a request's arrival to its first step.")
STEP = _seconds("step", "One step of the decode loop.")
ROWS = Histogram(
    "moatelier_engine_batch_rows", "Answers that got a token in one step.", buckets=BATCH, registry=REGISTRY
)
PROMPT_TOKENS = _counter("prompt_tokens", "Tokens of prompts, cached ones too.")
TOKENS = _counter("generated_tokens", "Tokens of answers.")
SWAPS = _counter("adapter_swaps", "Weights that came into memory or left it to make room.", ["event"])
MEDIA_SECONDS = _seconds("media_batch", "Pictures or recordings that are answered together.", ["modality"])
MEDIA_ROWS = Histogram(
    "moatelier_engine_media_batch_rows",
    "Pictures or recordings in one batch.",
    ["modality"],
    buckets=BATCH,
    registry=REGISTRY,
)
