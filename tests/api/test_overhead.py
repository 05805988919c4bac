"""What the API adds to the engine's own time."""

import statistics
import time

import httpx
import pytest

from store import adapters
from tests.api.conftest import Service, make_adapter

ROUNDS = 60


def times(client: httpx.Client, body: dict[str, object]) -> list[float]:
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        found.append(1000 * (time.perf_counter() - begun))
    return sorted(found)


def test_the_hot_path_is_short_and_asks_the_store_once_a_second(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_adapter()
    lookups: list[str] = []
    real = adapters.get

    def counted(project: str, name: str) -> adapters.AdapterRecord:
        lookups.append(name)
        return real(project, name)

    monkeypatch.setattr(adapters, "get", counted)
    body: dict[str, object] = {"model": record.model_id, "messages": [{"role": "user", "content": "x"}]}
    begun = time.monotonic()
    through = times(http, body)
    seconds = time.monotonic() - begun
    with httpx.Client(base_url=service.engine_url) as engine:
        direct = times(engine, {**body, "model": f"support@{record.digest}", "stream": False})
    added = statistics.median(through) - statistics.median(direct)
    assert len(lookups) <= seconds + 2
    # Both servers and the client share this process's interpreter and the machine is busy with other tests; the
    # figure that counts is benchmarks' overhead_p95_ms. This bound notices work that was put on the path by mistake.
    assert added < 25
