"""Load over HTTP: the engine's server, many clients at once, and what the API adds under load."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import quantiles

import httpx
import uvicorn
from fastapi import FastAPI

from benchmarks import waiting_engine
from benchmarks.peers import wait_until_it_answers
from moatelier.settings import settings
from modalities.bundle import bundle_folder

OPEN = 200
"""Streams that are open while the API's own time is measured."""
PROBES = 200


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


@contextmanager
def server(module: str, port: int, path: str, **environment: str) -> Iterator[str]:
    """A process of ours that listens on a port; gives its URL."""
    process = subprocess.Popen([sys.executable, "-m", module], env=os.environ | environment, stdout=sys.stderr)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}{path}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def engine(precision: str, digests: Sequence[str]) -> Iterator[str]:
    """The engine's own server with these bundles loaded under their digests."""
    port = free_port()
    with server(
        "serving.pool", port, "/healthz", MOATELIER_ENGINE_PORT=str(port), MOATELIER_PRECISION=precision
    ) as url:
        for digest in digests:
            body = {"lora_name": digest, "lora_path": str(bundle_folder(digest))}
            httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=300, trust_env=False).raise_for_status()
        yield url


def tokens_per_second(url: str, models: Sequence[str], turns: Sequence[list[dict[str, str]]], tokens: int) -> float:
    """New tokens a second over clients that ask at the same time, one request each."""

    def ask(number: int) -> int:
        body = {"model": models[number], "messages": turns[number], "max_tokens": tokens, "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600, trust_env=False)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    start = time.perf_counter()
    with ThreadPoolExecutor(len(models)) as clients:
        made = sum(clients.map(ask, range(len(models))))
    return made / (time.perf_counter() - start)


def overhead() -> dict[str, float | None]:
    """The p95 of what the API adds to a short request, in milliseconds, while `OPEN` streams are open through it.

    The engine behind it is a fake that waits instead of computing, so that nothing but the API uses the processor. The
    same requests go to the fake directly, in turn, and their time is subtracted.
    """
    port = free_port()
    with _running(waiting_engine.create(0.02, None)) as fake:
        own = {"MOATELIER_PORT": str(port), "MOATELIER_ENGINE_PORT": fake.rpartition(":")[2]}
        with server("api.app", port, "/healthz", **own) as url:
            return {"overhead_p95_ms": asyncio.run(_overhead(url, fake))}


async def _overhead(api: str, fake: str) -> float:
    key = (settings().home / "keys" / "admin.key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": settings().base, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False, headers=headers) as client:

        async def hold(number: int) -> None:
            asked = body | {"stream": True, "messages": [{"role": "user", "content": "hold"}]}
            async with client.stream("POST", f"{api}/v1/chat/completions", json=asked) as answer:
                async for _ in answer.aiter_raw():
                    pass

        async def ask(url: str) -> float:
            start = time.perf_counter()
            (await client.post(f"{url}/v1/chat/completions", json=body)).raise_for_status()
            return (time.perf_counter() - start) * 1e3

        streams = [asyncio.create_task(hold(number)) for number in range(OPEN)]
        await asyncio.sleep(3)
        added = []
        for _ in range(PROBES):
            through, direct = await ask(api), await ask(fake)
            added.append(through - direct)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    return quantiles(added, n=20)[18]


@contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio: no delay only for TCP
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not served.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        served.should_exit = True
        thread.join(20)
