"""`/healthz`: this process answers. `/readyz`: all of the service does. Both are open and tell nothing else."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.services import Services, Shared
from moatelier.errors import MoatelierError, UpstreamError
from moatelier.settings import settings
from store import events

T = TypeVar("T")
router = APIRouter()
WORKER_SILENCE_S = 15.0
"""The worker touches its heartbeat every few seconds; when it is older than this, the worker is gone or hangs."""
PATIENCE_S = 2.0
"""A part that does not answer within so long is not ready."""


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Alive. Waits for nothing, whatever else the service is doing."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(shared: Shared) -> JSONResponse:
    """Store, engine and worker, each by name; 503 unless all are there, with the code of what is wrong with each."""
    asked = {"store": _store, "engine": shared.backend.upstream.health, "worker": _worker}
    told = await asyncio.gather(*(_reason(part) for part in asked.values()))
    reasons = {name: reason for name, reason in zip(asked, told, strict=True) if reason}
    body = {
        "status": "not ready" if reasons else "ok",
        "parts": {name: name not in reasons for name in asked},
        "reasons": reasons,
    }
    return JSONResponse(body, status_code=503 if reasons else 200, headers={"retry-after": "1"} if reasons else {})


async def _reason(part: Callable[[], Awaitable[object]]) -> str | None:
    """Why a part is not ready: the code of its error. What it says may name addresses, which are nobody's business."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await part()
    except TimeoutError:
        return "deadline_exceeded"
    except MoatelierError as error:
        return error.code
    except Exception:  # a database that is gone has many words for it
        return "unreachable"
    return None


async def _store() -> None:
    await to_thread.run_sync(lambda: events.last_id(settings().project), abandon_on_cancel=True)


async def _worker() -> None:
    beat = settings().home / "worker.heartbeat"
    if not beat.exists():
        raise UpstreamError("The worker has not begun.")
    if time.time() - beat.stat().st_mtime >= WORKER_SILENCE_S:
        raise UpstreamError("The worker is silent.")


async def engine_counts(shared: Services) -> str | None:
    """The engine's metrics as text; None when it does not answer, or is no engine that tells any."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await shared.backend.upstream.metrics()
    except (MoatelierError, TimeoutError):
        return None


def worker_counts() -> str | None:
    """What the worker wrote down last; None when that is too old."""
    told = settings().home / "worker.prom"
    try:
        fresh = time.time() - told.stat().st_mtime < WORKER_SILENCE_S
        return told.read_text(encoding="utf-8") if fresh else None
    except OSError:
        return None
