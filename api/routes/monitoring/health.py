"""`/healthz`: this process answers. `/readyz`: all of the service does. Both are open and tell nothing else."""

import time

from anyio import to_thread
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.services import Shared
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from store import events

router = APIRouter()
WORKER_SILENCE_S = 15.0
"""The worker touches its heartbeat every few seconds; when it is older than this, the worker is gone or hangs."""


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Alive."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(shared: Shared) -> JSONResponse:
    """Store, engine and worker, each by name; 503 unless all are there."""
    parts = {"store": await to_thread.run_sync(_store), "engine": await _engine(shared), "worker": _worker()}
    whole = all(parts.values())
    body = {"status": "ok" if whole else "not ready", "parts": parts}
    return JSONResponse(body, status_code=200 if whole else 503, headers={} if whole else {"retry-after": "1"})


def _store() -> bool:
    try:
        events.last_id(settings().project)
    except MoatelierError:
        return False
    return True


async def _engine(shared: Shared) -> bool:
    try:
        await shared.backend.upstream.health()
    except MoatelierError:
        return False
    return True


def _worker() -> bool:
    beat = settings().home / "worker.heartbeat"
    return beat.exists() and time.time() - beat.stat().st_mtime < WORKER_SILENCE_S
