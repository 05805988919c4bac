"""`/metrics`: what the api, the engine and the worker count, in one answer for Prometheus.

The engine listens on loopback alone and the worker not at all, so that whoever scrapes from elsewhere could reach
neither. A part that does not answer is left out and `moatelier_up` says so: its silence never makes this one wait long.
"""

from anyio import to_thread
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api import metrics
from api.auth import Caller
from api.routes.monitoring.health import engine_counts, worker_counts
from api.services import Shared

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
async def scrape(_: Caller, shared: Shared) -> Response:
    """All metrics of the service, as text."""
    parts = {"engine": await engine_counts(shared), "worker": await to_thread.run_sync(worker_counts)}
    for role, text in parts.items():
        metrics.UP.labels(role).set(text is not None)
    # On a thread: there are thousands of lines, and nobody's stream shall wait for them.
    own = await to_thread.run_sync(generate_latest, metrics.REGISTRY)
    told = own.decode() + "".join(text for text in parts.values() if text)
    return Response(told, media_type=CONTENT_TYPE_PLAIN_0_0_4)
