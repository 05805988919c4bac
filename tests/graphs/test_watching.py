"""The worker's looks at observations, its alerts, and how they leave the service."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from evals import drift
from graphs import alerting, watching
from moatelier.contracts import Observation
from moatelier.settings import settings
from store import alerts, monitors, observations

pytestmark = pytest.mark.usefixtures("home")


def come(count: int, chars: float = 60, errors: float = 0.0, seed: int = 0, model: str = "support") -> None:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        error = bool(random.random() < errors)
        numbers = {"error": int(error), "prompt_chars": int(random.normal(chars, 10)), "ms": float(random.gamma(9))}
        found.append(Observation(project="p", model=model, chosen="a" * 64, good=not error, numbers=numbers))
    observations.append(found)


def raised() -> list[str]:
    return [alert.monitor for alert in alerts.list_alerts("p")]


def test_a_shift_raises_its_alert_once() -> None:
    come(drift.REFERENCE + 300)
    assert watching.look_after() > 0 and raised() == []
    come(500, chars=110, seed=1)
    watching.look_after()
    [alert] = alerts.list_alerts("p")
    assert (alert.monitor, alert.model, alert.delivery) == ("drift_prompt_length", "support", "logged")
    assert alert.body["before"] < 70 < alert.body["after"] and "drift prompt length has shifted" in alert.what
    come(500, chars=110, seed=2)
    watching.look_after()
    assert len(raised()) == 1, "it is silent for its cooldown"
    [monitor] = monitors.list_monitors("p")
    assert monitor.state["found"]["drift_prompt_length"]["shifted"]


def test_a_reset_takes_what_is_now_for_usual() -> None:
    come(drift.REFERENCE + 300)
    watching.look_after()
    monitors.reset("p", "support", actor="k")
    come(drift.REFERENCE + 300, chars=110, seed=1)
    watching.look_after()
    assert raised() == [] and monitors.get("p", "support", "a" * 64).reference is not None


def test_a_model_that_fails_is_told_of_at_once() -> None:
    come(drift.STEP, errors=0.1)
    watching.look_after()
    assert raised() == []
    come(drift.STEP, errors=0.7, seed=1)
    watching.look_after()
    assert raised() == ["errors"]


def test_failing_requests_are_not_taken_for_usual() -> None:
    come(drift.REFERENCE, errors=0.6)
    watching.look_after()
    assert raised() == ["errors"] and monitors.get("p", "support", "a" * 64).reference is None


def test_who_dies_between_alert_and_note_raises_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_ALERT_COOLDOWN_S", "0")
    settings.cache_clear()
    come(drift.REFERENCE + 200)
    watching.look_after()
    come(300, chars=110, seed=1)
    put = monitors.put

    def dies(*given: Any, **named: Any) -> bool:
        if raised():
            raise InterruptedError("killed, as it were, before it could note how far it looked")
        return put(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(monitors, "put", dies)
        for _ in range(3):
            with pytest.raises(InterruptedError):
                watching.look_after()
    assert raised() == ["drift_prompt_length"]


def test_a_budget_bounds_the_alerts_of_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_ALERTS_PER_DAY", "3")
    settings.cache_clear()
    made = [alerting.raise_alert("p", "latency", f"model-{number}", "slow", {}, about="1") for number in range(5)]
    assert [alert is not None for alert in made] == [True] * 3 + [False] * 2
    assert alerting.raise_alert("q", "latency", "model-1", "slow", {}, about="1") is not None


@contextmanager
def webhook(answers: list[int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A server that answers each request with the next status; what it was sent."""
    taken: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answers[min(len(taken), len(answers)) - 1])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_alert_is_delivered_signed_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook([503, 200]) as (url, taken):
        monkeypatch.setenv("MOATELIER_ALERT_WEBHOOK", url)
        monkeypatch.setenv("MOATELIER_ALERT_SECRET", "shh")
        monkeypatch.setattr(alerts, "WAITS_S", (0.0,) * 5)
        settings.cache_clear()
        made = alerting.raise_alert("p", "latency", "support", "It is slow.", {"ms": 9}, about="1")
        assert made is not None and made.delivery == "pending"
        assert alerting.deliver() == 0 and alerting.deliver() == 1 and alerting.deliver() == 0
        [alert] = alerts.list_alerts("p")
        assert (alert.delivery, alert.attempts) == ("delivered", 2)
        headers, body = taken[-1]
        assert headers[alerting.SIGNATURE] == hmac.new(b"shh", body, hashlib.sha256).hexdigest()
        assert json.loads(body)["what"] == "It is slow." and json.loads(body)["id"] == alert.id


def test_a_webhook_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_ALERT_WEBHOOK", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr(alerts, "WAITS_S", (0.0, 0.0))
    settings.cache_clear()
    alerting.raise_alert("p", "latency", "support", "It is slow.", {}, about="1")
    for _ in range(5):
        alerting.deliver()
    [alert] = alerts.list_alerts("p")
    assert (alert.delivery, alert.attempts, alert.next_at) == ("failed", 3, None)
