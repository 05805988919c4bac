"""The api process: everything a client talks to. No torch, no graph runs here.

python -m api.app
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api import errors, metrics, oidc
from api.auth import Callers
from api.decisions import DecisionLog
from api.guard import Guard
from api.limits import Limits
from api.openapi import document
from api.rights import Table
from api.routes.admin import access, adapters, derived, imports, learning, mixture, recipes, rollouts, tasks
from api.routes.monitoring import drift, health, page, scrape
from api.routes.openai import (
    chat,
    classify,
    completions,
    embeddings,
    evals,
    feedback,
    files,
    fine_tuning,
    graders,
    models,
    refused,
    responses,
    transcriptions,
    uploads,
)
from api.routes.threads import assistants, crons, runs, stateless, states, threads
from api.safety import SafeHeaders
from api.services import Services
from api.trace import RequestIds
from graphs.answering import Answers
from moatelier import logs, tracing
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from serving import mixtures
from serving.admission import Admission
from serving.asking import Asker
from serving.auto import Auto
from serving.backend import Backend
from serving.brief import Brief
from serving.patience import HEADER
from serving.process import TELEMETRY, serve
from serving.targets import resolve
from serving.upstream import Upstream
from store import db, keys

ROUTES = (
    chat,
    completions,
    responses,
    refused,
    classify,
    embeddings,
    transcriptions,
    feedback,
    models,
    files,
    uploads,
    fine_tuning,
    graders,
    evals,
    runs,
    threads,
    states,
    crons,
    stateless,
    assistants,
    tasks,
    derived,  # before adapters, whose names take any path
    adapters,
    recipes,
    mixture,
    rollouts,
    learning,
    access,
    imports,
    drift,
    health,
    scrape,
    page,
)


CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["*"],
}
"""For the origins that are set; credentials are headers that a page sets itself, so no cookies are allowed."""


def create_app(engine_url: str | None = None) -> FastAPI:
    """The app.

    Args:
        engine_url: Where the engine listens; default: on loopback, at the port of the settings.
    """
    url = engine_url or f"http://127.0.0.1:{settings().engine_port}"
    options: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(title="Moatelier", lifespan=_lifespan, telemetry=TELEMETRY, **options)
    app.state.engine_url = url
    errors.install(app)
    for module in ROUTES:
        app.include_router(module.router)
    app.add_middleware(Guard, table=Table(app))  # the innermost of these: what is added later stands around it
    if origins := settings().cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS)
    app.add_middleware(SafeHeaders)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    app.add_middleware(RequestIds)
    return app


def callers() -> Callers:
    """Who may come: by keys of the store, and by tokens where an issuer is set."""
    return Callers(Brief(keys.check_digest), Brief(oidc.Issuer().check) if settings().oidc_issuer else None)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    decisions = DecisionLog()
    admission = Admission(
        settings().in_flight, settings().queue, settings().queue_wait_s, metrics.ADMISSION_SECONDS.observe
    )
    metrics.watch(admission)
    patience = {HEADER: f"{settings().queue_wait_s:g}"}
    async with (
        Upstream(app.state.engine_url, headers=patience) as upstream,
        Asker(backend := Backend(upstream, admission)) as asker,
    ):
        targets = Brief(resolve)
        auto = Auto(upstream, targets)
        answers = Answers(asker, auto, targets)
        app.state.services = Services(
            callers(), Limits(), targets, auto, backend, Brief(mixtures.load), answers, decisions
        )
        writer = asyncio.create_task(decisions.run())
        yield
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer
        await decisions.flush()


def main() -> None:
    """Serve until told to stop: SIGTERM, or the end of the supervisor's pipe."""
    try:
        logs.configure("api")
        tracing.configure("api")
        db.migrate()
        keys.ensure_admin()
        serve(create_app(), settings().host, settings().port, proxies=settings().proxies)
    except MoatelierError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
