"""Where spans go: nowhere unless somebody says where."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

from moatelier import genai, tracing
from moatelier.errors import DataError, InvalidRequest
from moatelier.settings import settings
from tests.tracing import recorded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP receiver on loopback: its address and what it has been sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No provider yet, and none afterwards."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


@pytest.mark.parametrize("variable", ["MOATELIER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_spans_are_sent_where_the_setting_says(
    fresh: pytest.MonkeyPatch, collector: tuple[str, list[tuple[str, bytes]]], variable: str
) -> None:
    url, got = collector
    fresh.setenv(variable, url)
    tracing.configure("api")
    with tracing.span("route", {genai.REQUEST_MODEL: "auto"}):
        assert tracing.headers()["traceparent"].startswith("00-")
    provider: Any = trace.get_tracer_provider()
    provider.shutdown()
    [(path, body)] = got
    assert path == "/v1/traces"
    assert all(word in body for word in (b"moatelier-api", b"route", genai.REQUEST_MODEL.encode(), b"auto"))


def test_without_a_place_nothing_is_loaded_and_nothing_is_sent(fresh: pytest.MonkeyPatch) -> None:
    tracing.configure("api")
    with tracing.span("route"):
        assert tracing.headers() == {}
    tracing.flush()
    check = "import api.app, sys; print([n for n in sys.modules if n.startswith('opentelemetry.exporter')])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_place_without_the_extra_is_refused(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("MOATELIER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    fresh.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidRequest, match=r"moatelier\[otel\]"):
        tracing.configure("api")


def test_what_was_wrong_is_told_by_its_code_alone() -> None:
    with recorded() as spans:
        for error in (DataError("Row 3 says xyzzy."), KeyError("xyzzy")):
            with pytest.raises(type(error)), tracing.span("work"):
                raise error
        tracing.written("engine.queue", 1.0, 1.5, {})
    assert [span.attributes["error.type"] for span in spans.named("work")] == ["data_error", "KeyError"]  # type: ignore[index]
    assert "xyzzy" not in "".join(span.to_json() for span in spans.all)
    [written] = spans.named("engine.queue")
    assert written.end_time - written.start_time == pytest.approx(0.5e9, abs=1e3)  # type: ignore[operator]


def test_names_of_the_standard_stand_in_one_module() -> None:
    """They are still moving there: a change must be one here."""
    packages = ("moatelier", "store", "modalities", "training", "evals", "serving", "agents", "graphs", "api")
    sources = [path for name in packages for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in sources if '"gen_ai.' in path.read_text(encoding="utf-8")] == ["genai.py"]
