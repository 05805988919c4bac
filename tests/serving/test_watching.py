"""The engine's `/metrics`, and how long requests say that they wait."""

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI

from serving import watching
from serving.patience import HEADER, patience_s


class Pool:
    """A base with its engine, as far as it is counted."""

    def __init__(self, **counts: int) -> None:
        self.mine: dict[str, Any] = {"a": None, "b": None}
        self._counts = counts

    def counts(self) -> dict[str, int | str]:
        return {"precision": "bf16", **self._counts}


def ask(app: FastAPI, path: str, **headers: str) -> httpx.Response:
    async def scene() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(scene())


def test_what_engines_hold_is_told_by_base_and_nothing_of_who_has_not_been_loaded() -> None:
    app, pools = FastAPI(), {"tiny": Pool(memory_used=7, block_hits=3), "other": Pool()}
    watching.add_routes(app, lambda: pools)
    told = ask(app, "/metrics").text
    assert 'moatelier_engine_memory_used_bytes{base="tiny"} 7.0' in told
    assert 'moatelier_engine_kv_block_hits_total{base="tiny"} 3.0' in told
    assert 'moatelier_engine_adapters{base="other"} 2.0' in told
    assert 'moatelier_engine_memory_used_bytes{base="other"}' not in told
    assert "moatelier_engine_process_resident_memory_bytes" in told


def test_a_header_says_how_long_a_request_waits() -> None:
    app = FastAPI()
    watching.add_routes(app, dict)

    @app.get("/patience")
    async def patience() -> float | None:
        return patience_s()

    told = {word: ask(app, "/patience", **{HEADER: word}).json() for word in ("2.5", "0", "-1", "nan", "inf", "x", "")}
    assert told == {"2.5": 2.5, "0": 0.0, "-1": None, "nan": None, "inf": None, "x": None, "": None}
    assert ask(app, "/patience").json() is None
