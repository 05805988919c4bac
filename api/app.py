"""The api process: everything a client talks to. No torch, no graph runs here.

python -m api.app
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from api import errors, metrics
from api.decisions import DecisionLog
from api.routes.admin import adapters, derived, mixture, recipes, tasks
from api.routes.monitoring import health, page, scrape
from api.routes.openai import chat, classify, embeddings, feedback, files, models, transcriptions
from api.routes.threads import runs, threads
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
    classify,
    embeddings,
    transcriptions,
    feedback,
    models,
    files,
    runs,
    threads,
    tasks,
    derived,  # before adapters, whose names take any path
    adapters,
    recipes,
    mixture,
    health,
    scrape,
    page,
)


def create_app(engine_url: str | None = None) -> FastAPI:
    """The app.

    Args:
        engine_url: Where the engine listens; default: on loopback, at the port of the settings.
    """
    url = engine_url or f"http://127.0.0.1:{settings().engine_port}"
    app = FastAPI(title="Moatelier", lifespan=_lifespan, docs_url=None, redoc_url=None, telemetry=TELEMETRY)
    app.state.engine_url = url
    app.add_middleware(RequestIds)
    errors.install(app)
    for module in ROUTES:
        app.include_router(module.router)
    return app


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
            Brief(keys.check), targets, auto, backend, Brief(mixtures.load), answers, decisions
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
        serve(create_app(), settings().host, settings().port)
    except MoatelierError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
