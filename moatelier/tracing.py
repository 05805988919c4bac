"""Traces by OpenTelemetry: spans cost next to nothing until `configure` finds somewhere to send them.

    tracing.configure("api")                       # reads MOATELIER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT
    with tracing.span("route", {genai.MODEL: name}) as current:
        current.set_attribute(...)

The SDK with its exporter is the extra `otel`. It reads the other variables of its standard by itself
(`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, ...). A span never holds what people said or were answered.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from moatelier.errors import InvalidRequest, MoatelierError
from moatelier.settings import settings

FLUSH_S = 0.5
_PROPAGATOR = TraceContextTextMapPropagator()

__all__ = ["Link", "SpanKind", "configure", "failed", "flush", "headers", "span", "written"]


def configure(role: str) -> None:
    """Send this process's spans to the endpoint of the settings; without one nothing happens.

    Raises:
        InvalidRequest: There is an endpoint, and the extra `otel` is not installed.
    """
    endpoint = settings().otlp_endpoint
    if not endpoint:
        return
    try:
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise InvalidRequest(
            "Traces are to be sent, and OpenTelemetry's SDK is not installed.",
            where="MOATELIER_OTLP_ENDPOINT",
            remedy="pip install 'moatelier[otel]', or unset the variable (OTEL_EXPORTER_OTLP_ENDPOINT counts too).",
        ) from error
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": f"moatelier-{role}"}))
    exporter = otlp.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what waits to be sent, if that can be done within `FLUSH_S`: a process that leaves waits for nobody."""
    last = getattr(trace.get_tracer_provider(), "force_flush", None)
    if last is not None:
        sending = threading.Thread(target=last, daemon=True)
        sending.start()
        sending.join(FLUSH_S)


@contextmanager
def span(name: str, attributes: Mapping[str, Any] | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """A span around a piece of work. What the work raises marks it with the error's code, not with its words."""
    with trace.get_tracer("moatelier").start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as error:
            failed(current, error.code if isinstance(error, MoatelierError) else type(error).__name__)
            raise


def failed(current: Span, code: str) -> None:
    """Mark a span."""
    current.set_attribute("error.type", code)
    current.set_status(Status(StatusCode.ERROR))


def written(
    name: str, begun: float, ended: float, attributes: Mapping[str, Any], context: Context | None = None
) -> None:
    """A span of what has been, from and to moments of the monotonic clock, below the span of a context."""
    shift = time.time() - time.monotonic()
    made = trace.get_tracer("moatelier").start_span(
        name, context=context, attributes=attributes, start_time=int((begun + shift) * 1e9)
    )
    made.end(int((ended + shift) * 1e9))


def headers() -> dict[str, str]:
    """`traceparent` of the current span, for whoever is asked next; nothing when there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier
