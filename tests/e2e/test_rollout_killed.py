"""A rollout in real processes on the tiny model: the worker dies within its promotion, the API in the middle of it."""

from collections.abc import Iterator

import httpx
import pytest

from modalities.bundle import read_manifest
from store import adapters, audit, rollouts
from tests.e2e.harness import Service, prepared, wait_for
from tests.serving.conftest import seal_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FAULT = "rollout.inside_promote"
PEOPLE = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the champion of `desk` and a challenger; the promotion waits to be killed."""
    folder = tmp_path_factory.mktemp("rollout")
    made = Service(folder, MOATELIER_PRECISION="fp32", MOATELIER_FAULT=FAULT)
    with prepared(made):
        for seed, name in enumerate(("old", "new"), start=1):
            bundle = seal_adapter("tiny", folder, name, seed=seed)
            digest = adapters.register("default", read_manifest(bundle), "task-1").digest
            adapters.set_alias("default", name, digest, fence=1, actor="test")
        adapters.set_alias("default", "desk", adapters.get("default", "old").digest, fence=1, actor="test")
        with made:
            yield made


def sides(service: Service) -> dict[int, str]:
    """Who answers each of the people; the digest is in a header."""
    key = (service.home / "keys" / "admin.key").read_text().strip()
    found = {}
    with httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        for person in range(PEOPLE):
            said = [{"role": "user", "content": "where is my parcel"}]
            body = {"model": "desk", "messages": said, "user": f"user-{person}", "max_tokens": 4}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            found[person] = answer.headers["x-moatelier-adapter"]
    return found


def test_one_alias_state_whoever_dies(service: Service) -> None:
    old, new = (adapters.get("default", name).digest for name in ("old", "new"))
    plan = {"share": 0.5, "watch": "answered", "margin": 0.2, "least": 10}
    begun = service.call("POST", "/v1/rollouts", json={"alias": "desk", "challenger": new, "plan": plan})
    before = sides(service)
    assert set(before.values()) == {old, new}
    service.kill(service.pid("api"))
    wait_for("the service to be ready", service.ready)
    after = sides(service)
    if rollouts.get("default", begun["id"]).state == "canary":
        assert after == before, "whoever was drawn stays so"
    service.kill_at(FAULT, "job")
    wait_for("the promotion", lambda: rollouts.get("default", begun["id"]).ended)
    assert rollouts.get("default", begun["id"]).state == "promoted"
    assert adapters.alias_of("default", "desk") == (new, 2)
    lines = [line.action for line in audit.read("default", limit=10_000) if line.subject == begun["id"]]
    assert lines == ["rollout.canary", "rollout.promoted"]
    wait_for("requests to know it", lambda: set(sides(service).values()) == {new})
