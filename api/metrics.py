"""What the api process counts, as Prometheus reads it: base units, and no label that a client could fill with words.

Labels come from closed sets alone: route templates, statuses, the reasons and codes of our own types. What engine and
worker count is fetched when somebody looks, see routes/monitoring/scrape.py.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from evals import observing
from evals.observing import Heard
from moatelier import __version__
from moatelier.contracts import Feedback, RouteDecision, Trace
from serving.admission import Admission

REGISTRY = CollectorRegistry()
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

ProcessCollector(namespace="moatelier_api", registry=REGISTRY)
REQUESTS = Counter(
    "moatelier_http_requests_total",
    "Requests by route and status; 499: the client went away.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "moatelier_http_request_seconds",
    "From a request to the end of its answer, a stream's last byte.",
    ["route"],
    buckets=SECONDS,
    registry=REGISTRY,
)
FIRST_BYTE_SECONDS = Histogram(
    "moatelier_http_first_byte_seconds",
    "From a request to the beginning of its answer.",
    ["route"],
    buckets=SECONDS,
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("moatelier_http_requests_in_flight", "Requests that are being answered.", registry=REGISTRY)
TOKENS = Counter(
    "moatelier_tokens_total",
    "Tokens that whole answers, and streams with `include_usage`, have told of.",
    ["kind"],
    registry=REGISTRY,
)
ROUTES = Counter(
    "moatelier_route_decisions_total", "What a request's model name led to, and why.", ["reason"], registry=REGISTRY
)
DROPPED = Counter(
    "moatelier_route_decisions_dropped_total", "Decisions that the store was too slow for.", registry=REGISTRY
)
RECIPES = Counter(
    "moatelier_moa_requests_total",
    "Answers by recipes, by how they were made and by how much of the recipe was asked.",
    ["way", "extent"],
    registry=REGISTRY,
)
RECIPE_SECONDS = Histogram(
    "moatelier_moa_request_seconds", "What a recipe's answer took.", buckets=SECONDS, registry=REGISTRY
)
CALLS = Counter(
    "moatelier_moa_calls_total",
    "Calls that recipes have made to models: answered, or the code of what went wrong.",
    ["outcome"],
    registry=REGISTRY,
)
CALL_SECONDS = Histogram(
    "moatelier_moa_call_seconds", "What one call of a recipe took.", buckets=SECONDS, registry=REGISTRY
)
FEEDBACK = Counter("moatelier_feedback_total", "Words of people on answers.", ["kind"], registry=REGISTRY)
FEEDBACK_REFUSED = Counter(
    "moatelier_feedback_refused_total", "Words that were not taken, by the code of why.", ["outcome"], registry=REGISTRY
)
ANSWERS = Counter(
    "moatelier_answers_total",
    "Answers by adapters and bases, shown or in the shadow: good, failed, or not in the form that was asked for.",
    ["outcome", "kind"],
    registry=REGISTRY,
)
AT_ENGINE = Gauge("moatelier_admission_in_flight", "Requests that are at the engine.", registry=REGISTRY)
WAITING = Gauge("moatelier_admission_waiting", "Requests that wait to be let in.", registry=REGISTRY)
ADMISSION_SECONDS = Histogram(
    "moatelier_admission_wait_seconds", "Waited to be let in.", buckets=SECONDS, registry=REGISTRY
)
OVERLOADED = Counter(
    "moatelier_overloaded_total", "Requests refused as more was asked than can be answered.", registry=REGISTRY
)
UP = Gauge("moatelier_up", "Whether a process of the service answers.", ["role"], registry=REGISTRY)
BUILD = Gauge("moatelier_build_info", "Always 1.", ["version"], registry=REGISTRY)
BUILD.labels(__version__).set(1)


def watch(admission: Admission) -> None:
    """Show who is let in."""
    AT_ENGINE.set_function(lambda: admission.taken)
    WAITING.set_function(lambda: admission.waiting)


def method(given: str) -> str:
    """A request's method as a label."""
    return given if given in METHODS else "OTHER"


def request(method: str, route: str, status: int, seconds: float, first_byte_s: float, told: Mapping[str, Any]) -> None:
    """A request is over."""
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    FIRST_BYTE_SECONDS.labels(route).observe(first_byte_s)
    for kind in ("prompt", "completion"):
        TOKENS.labels(kind).inc(told.get(f"{kind}_tokens", 0))


def decision(made: RouteDecision) -> None:
    """What answers a request has been decided."""
    ROUTES.labels(made.reason).inc()


def mixture(trace: Trace) -> None:
    """A recipe has answered."""
    RECIPES.labels(trace.way, trace.extent).inc()
    RECIPE_SECONDS.observe(trace.milliseconds / 1000)
    for call in trace.calls:
        CALLS.labels(call.error or "answered").inc()
        CALL_SECONDS.observe(call.milliseconds / 1000)


def answer(heard: Heard, shadow: bool) -> None:
    """An answer is over."""
    outcome = "failed" if heard.error else "malformed" if observing.is_formed(heard) is False else "good"
    ANSWERS.labels(outcome, "shadow" if shadow else "shown").inc()


def feedback(said: Feedback) -> None:
    """A person has judged an answer; a word may be of several kinds."""
    if said.rating is not None:
        FEEDBACK.labels("good" if said.rating > 0 else "bad").inc()
    for kind in ("edit", "label", "comment"):
        if getattr(said, kind) is not None:
            FEEDBACK.labels(kind).inc()
