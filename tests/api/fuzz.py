"""Requests made up from the OpenAPI file, half of them about things that exist: no fault of ours, nothing undeclared.

python -m tests.api.fuzz --minutes 10 [--seed 1]
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.rights import RIGHTS
from graphs import jobs
from store import db, keys, tasks
from tests.api import fake_engine
from tests.api.fake_engine import BASE
from tests.api.fake_worker import FakeWorker
from tests.api.running import running
from tests.api.world import ENDLESS, Things, example

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
READY = "GET /readyz"
"""It may say 503: no worker runs behind the service that is fuzzed."""
LONGEST_S, LOOK_S = 20.0, 2.0


@dataclass
class Found:
    """What was sent and what came of it."""

    until: float = math.inf
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def fuzz(url: str, secret: str, examples: int, number: int, things: Things, until: float = math.inf) -> Found:
    """Send so many requests to each route of a service.

    Args:
        url: Where it is.
        secret: A key that opens everything.
        examples: Of each route.
        number: Seeds what is made up.
        things: Makes what requests may be about.
        until: By `time.monotonic`; later nothing is sent.
    """
    found = Found(until)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    drawn = random.Random(number)
    for result in schema.get_all_operations():
        operation = result.ok()
        _one(operation, secret, examples, number, found, things, drawn)
    return found


def _one(
    operation: Any, secret: str, examples: int, number: int, found: Found, things: Things, drawn: random.Random
) -> None:
    route = _route(operation)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        if time.monotonic() > found.until:
            return
        if route is not None and drawn.random() < 0.5:
            _about_something(case, route, things)
        if isinstance(case.query, dict):
            case.query.pop("wait", None)  # for the end of a run that nobody carries on here
        headers = {"authorization": f"Bearer {secret}"}
        try:
            answer = case.call(headers=headers, timeout=LOOK_S if route in ENDLESS else LONGEST_S)
            found.requests += 1
            found.statuses[answer.status_code] += 1
            if answer.status_code >= 500 and (route, answer.status_code) != (READY, 503):
                raise AssertionError(f"{answer.status_code}: {answer.text[:300]}")
            case.validate_response(answer, checks=CHECKS, headers=headers)
        except (Exception, FailureGroup) as error:  # all are kept; one fault must not hide the next
            if len(found.faults) < 50:
                found.faults.append(f"{operation.label}: {type(error).__name__}: {error}\n{case.as_curl_command()}")

    ask()


def _route(operation: Any) -> str | None:
    label = operation.label
    return next((name for name in RIGHTS if name.replace(":path", "") == label), None)


def _about_something(case: Any, route: str, things: Things) -> None:
    _, _, request, ids = example(route, things)
    if ids:
        case.path_parameters = ids
    if isinstance(case.body, dict) and isinstance(request.get("json"), dict):
        case.body = case.body | {name: value for name, value in request["json"].items() if name not in case.body}
        if "model" in request["json"]:
            case.body["model"] = BASE if random.random() < 0.5 else request["json"]["model"]


@contextmanager
def service() -> Iterator[tuple[str, str]]:
    """A service on a data directory of its own, with a fake engine and a fake worker."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["MOATELIER_HOME"] = home
        worker = FakeWorker()
        db.migrate()
        Path(home, "worker.heartbeat").touch()

        def submit(run_id: str) -> None:
            if tasks.find_thread(tasks.find_run(run_id).thread).graph == "conversation":
                worker.submit_run(run_id)

        jobs.submit_run, jobs.cancel_run, jobs.cancel_task = submit, worker.cancel_run, tasks.request_cancel  # type: ignore[assignment]
        secret = keys.ensure_admin()
        with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
            yield url, secret
            worker.close()


def main() -> None:
    """Fuzz for so many minutes; ends with a JSON line, and status 1 if anything was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    whole, ends = Found(), time.monotonic() + 60 * chosen.minutes
    with service() as (url, secret):
        number = chosen.seed
        while time.monotonic() < ends and not whole.faults:
            found = fuzz(url, secret, 20, number, Things("default"), ends)
            whole.requests += found.requests
            whole.statuses += found.statuses
            whole.faults += found.faults
            number += 1
        for fault in whole.faults:
            print(fault, file=sys.stderr)
        told = {
            "requests": whole.requests,
            "faults": len(whole.faults),
            "statuses": dict(sorted(whole.statuses.items())),
        }
        print(json.dumps(told), flush=True)
    sys.exit(bool(whole.faults))


if __name__ == "__main__":
    main()
