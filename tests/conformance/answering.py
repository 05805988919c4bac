"""Two services on loopback: one answers by a real, tiny engine; one converses with a fake worker."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient

from api.app import create_app
from graphs import jobs
from serving.pool import Pool
from serving.pool import create_app as create_engine
from store import keys
from tests.api import fake_engine
from tests.api.fake_worker import FakeWorker
from tests.api.running import running
from tests.sensed import senses


@dataclass(frozen=True)
class Answering:
    """A service that answers by the tiny model, and by eyes and ears that say what they are told."""

    url: str
    key: str
    client: openai.OpenAI

    @asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """The other client."""
        told: dict[str, Any] = {"base_url": f"{self.url}/v1", "api_key": self.key, "timeout": 60, "max_retries": 0}
        async with openai.AsyncOpenAI(**told) as made:
            yield made


@pytest.fixture
def answering(tiny: str, home: Path) -> Iterator[Answering]:
    key = keys.ensure_admin()
    with running(create_engine(Pool(tiny, senses()))) as engine, running(create_app(engine)) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60, max_retries=0) as made:
            yield Answering(url, key, made)


@dataclass(frozen=True)
class Talking:
    """A service whose conversations are played by the fake worker."""

    url: str
    key: str
    client: SyncLangGraphClient
    worker: FakeWorker

    @asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[LangGraphClient]:
        """The other client."""
        async with get_client(url=self.url, api_key=self.key) as made:
            yield made


@pytest.fixture
def talking(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talking]:
    worker, key = FakeWorker(), keys.ensure_admin()
    monkeypatch.setattr(jobs, "submit_run", worker.submit_run)
    monkeypatch.setattr(jobs, "cancel_run", worker.cancel_run)
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        with get_sync_client(url=url, api_key=key) as made:
            yield Talking(url, key, made, worker)
        worker.close()
