"""A running service with a fake engine and a fake worker, and the two public clients that judge it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from api.app import create_app
from graphs import jobs
from moatelier.contracts import AdapterManifest, TrainSpec
from moatelier.settings import settings
from modalities import bundle
from store import adapters, keys
from tests.api import fake_engine
from tests.api.fake_worker import FakeWorker
from tests.api.running import running


@dataclass(frozen=True)
class Service:
    url: str
    engine_url: str
    key: str
    engine: fake_engine.Engine
    worker: FakeWorker
    home: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture
def service(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    engine, worker = fake_engine.Engine(), FakeWorker()
    monkeypatch.setattr(jobs, "submit_run", worker.submit_run)
    monkeypatch.setattr(jobs, "cancel_run", worker.cancel_run)
    key = keys.ensure_admin()
    with running(fake_engine.create(engine)) as engine_url, running(create_app(engine_url)) as url:
        yield Service(url, engine_url, key, engine, worker, home)
        worker.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers=service.headers, timeout=20) as client:
        yield client


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, timeout=20, max_retries=0) as made:
        yield made


@pytest.fixture
def langgraph(service: Service) -> Iterator[SyncLangGraphClient]:
    with get_sync_client(url=service.url, api_key=service.key) as made:
        yield made


def make_adapter(
    suffix: str = "support", *, seed: int = 0, project: str = "default", kind: str = "classification"
) -> adapters.AdapterRecord:
    """A registered adapter whose bundle has invented weights."""
    base = settings().base
    spec = TrainSpec(method="lora", base=base, dataset="d" * 64, suffix=suffix, seed=seed)
    fields = {"base": base, "base_digest": "b" * 64, "modality": "text", "kind": kind, "suffix": suffix}
    fields |= {"system": "Name the category of the message.", "template_digest": "t" * 64, "stop_ids": (2,)}
    fields |= {
        "labels": ("a", "b") if kind == "classification" else (),
        "first_layer": 4,
        "dataset": "d" * 64,
        "licence": "Apache-2.0",
    }
    digest = bundle.seal(
        {"adapter_model.safetensors": f"weights {seed}".encode(), "adapter_config.json": b"{}"},
        spec=spec,
        versions={"moatelier": "0.1.0"},
        **fields,
    )
    manifest: AdapterManifest = bundle.read_manifest(adapters.bundle_path(digest))
    return adapters.register(project, manifest, "task-1")
