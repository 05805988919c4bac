"""The engine's process: one base with its adapters behind the OpenAI dialect, on loopback.

    python -m serving.pool

The base is loaded at its first use and never downloaded. Adapters are loaded and unloaded as vLLM does it, and named
by a request's `model`.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from moatelier.errors import Cancelled, InvalidRequest, MoatelierError, NotFound
from moatelier.faults import fault_point
from moatelier.settings import settings
from modalities import registry
from modalities.bundle import read_manifest
from modalities.imagetext.config import NAME as SHOWN
from serving import continuing, labelling, parts, sensing, watching
from serving.bases import Bases
from serving.driver import Driver, Ticket
from serving.embeddings import Embedder, EmbeddingRequest
from serving.engine import Delta, TextEngine
from serving.process import TELEMETRY, serve
from serving.protocol import DONE, ChatRequest, LoadRequest, UnloadRequest, Wire, envelope
from serving.row import Row
from serving.sampling import TokenLogprob
from serving.senses import Senses, decode
from serving.sensing import ClassifyRequest
from serving.sse import event

T = TypeVar("T")
LOOKING = "serving.looking:LookingEngine"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Pool:
    """The engine and the thread it runs on. Everything that touches the model goes through the driver.

    Args:
        base: The catalogue id of the base.
        senses: The engines for pictures and recordings.
    """

    def __init__(self, base: str, senses: Senses | None = None) -> None:
        self.base, self.senses = base, senses or Senses()
        self.driver = Driver(self.engine)
        self.started = int(time.time())
        self._engine: TextEngine | None = None
        self._looking: Any = None

    @property
    def loaded(self) -> bool:
        """The base is in memory."""
        return self._engine is not None

    def engine(self) -> TextEngine:
        """The engine, loaded at its first use; call this on the driver's thread only."""
        if self._engine is None:
            self._engine = TextEngine(self.base)
        return self._engine

    def looking(self) -> Any:
        """The engine with eyes, a `LookingEngine`, imported at its first use; call this on the driver's thread only."""
        if self._looking is None:
            self._looking = registry.load(LOOKING)(self.base, text=self.engine())
        return self._looking

    @property
    def mine(self) -> dict[str, Any]:
        """The adapters on this base that are loaded, by their names."""
        return (self._engine.adapters if self._engine else {}) | (self._looking.adapters if self._looking else {})

    def models(self, sensed: bool = True) -> list[dict[str, Any]]:
        """The base and all adapters as the dialect lists them, `root` and `parent` as vLLM does."""
        names: dict[str, tuple[str, str | None]] = {self.base: (self.base, None)}
        loaded = (self.senses.adapters if sensed else {}) | (self._engine.adapters if self._engine else {})
        names |= {name: (manifest.digest, manifest.base) for name, manifest in loaded.items()}
        frame = {"object": "model", "created": self.started, "owned_by": "moatelier"}
        return [{"id": name, **frame, "root": root, "parent": parent} for name, (root, parent) in names.items()]

    def is_sensed(self, model: str) -> bool:
        """Whether a model is for pictures or recordings."""
        known = self._engine.adapters if self._engine else {}
        return model != self.base and model not in known and self.senses.knows(model)

    def is_shown(self, model: str) -> bool:
        """Whether a model is an adapter that is shown pictures."""
        return self._looking is not None and model in self._looking.adapters

    async def show(self, request: ChatRequest) -> Ticket:
        """Queue a question about a picture.

        Raises:
            InvalidRequest: The request has no picture, or asks for what such a model cannot do.
            DataError: The picture is damaged.
        """
        request.check()
        for field in ("ensemble", "prompt_logprobs"):
            if getattr(request, field) is not None:
                what = f"A model that is shown pictures has no {field}."
                raise InvalidRequest(what, where=field, remedy="Leave it out.")
        part = parts.last([message.model_dump() for message in request.messages], "image")
        if part is None:
            what = f"`{request.model}` is asked about a picture, and the request has none."
            raise InvalidRequest(what, where="messages", remedy="Send an `image_url` part with a data URI.")
        turns, sampling, asked = request.shown(), request.sampling(), time.monotonic()
        image = await asyncio.to_thread(decode, part)

        def submit(engine: TextEngine) -> Sequence[Row]:
            rows: Sequence[Row] = self.looking().submit(
                turns,
                image,
                adapter=request.model,
                sampling=sampling,
                choices=request.n or 1,
                flow=request.user or "",
                asked=asked,
            )
            return rows

        return self.driver.submit(submit, eager=request.stream)

    def answer(self, request: ChatRequest) -> Ticket:
        """Queue a chat request.

        Raises:
            InvalidRequest: The request asks for what this engine cannot do.
            NotFound: No model of this name is loaded.
        """
        request.check()
        turns, sampling = request.turns(), request.sampling()
        names, asked = request.ensemble or [request.model], time.monotonic()
        for name in (request.model, *names):
            self.fingerprint(name)
            if self.is_shown(name):
                what = f"`{name}` is shown pictures, and decides nothing with others."
                raise InvalidRequest(what, where="ensemble", remedy="Leave it out.")
        adapters = [None if name == self.base else name for name in names]

        def submit(engine: TextEngine) -> Sequence[Row]:
            fault_point("engine.answering")
            take = partial(continuing.submit, engine) if request.raw else engine.submit
            return take(
                turns,
                adapters=adapters,
                sampling=sampling,
                choices=request.n or 1,
                scored=request.prompt_logprobs,
                flow=request.user or "",
                asked=asked,
            )

        return self.driver.submit(submit, eager=request.stream)

    async def label(self, body: ClassifyRequest, request: Request) -> dict[str, Any]:
        """The labels of texts, one text after the other: each is a batch by itself.

        Raises:
            InvalidRequest: An input is no text or too long, or the model was not tuned to classify texts.
            NotFound: No model of this name is loaded.
        """
        self.fingerprint(body.model)
        manifest = self._engine.adapters.get(body.model) if self._engine else None
        if manifest is None or manifest.kind != "classification":
            what = f"`{body.model}` has no labels to tell."
            raise InvalidRequest(what, where="model", remedy="Ask an adapter that was tuned to classify.")
        told, prompt = [], 0
        for index, text in enumerate(body.texts()):
            asked = partial(labelling.submit, adapter=body.model, manifest=manifest, text=text, index=index)
            ticket = self.driver.submit(partial(asked, flow=body.user or ""), eager=False)
            told.append(await unless_gone(request, ticket, labelling.told(ticket, manifest.labels)))
            prompt += ticket.rows[0].told_from
        return sensing.labelled(body.model, told, prompt)

    def counts(self) -> dict[str, int | str]:
        """What the engine holds, in bytes and in things; nothing before it is loaded."""
        engine = self._engine
        if engine is None:
            return {}
        return {
            "precision": engine.precision,
            "memory_limit": engine.memory.limit,
            "memory_used": engine.memory.used,
            "memory_held": engine.memory.held,
            "evicted": engine.memory.evicted,
            "blocks": len(engine.blocks),
            "block_hits": engine.blocks.hits,
            "block_misses": engine.blocks.misses,
            "running": len(engine.scheduler.running),
            "waiting": engine.scheduler.busy - len(engine.scheduler.running),
            "prompt_work": engine.passes.prompt_work,
        }

    def spell(self, token: int) -> bytes:
        """A token's bytes; the engine has been loaded when there is one to spell."""
        assert self._engine is not None
        return self._engine.grammars.spell(token)

    def fingerprint(self, model: str) -> str:
        """What answers under this name: the start of an adapter's digest, or the base's id.

        Raises:
            NotFound: No model of this name is loaded.
        """
        for entry in self.models():
            if entry["id"] == model:
                return f"fp_{entry['root'][:12]}" if entry["parent"] else f"fp_{model}"
        if self.is_sensed(model):
            return f"fp_{model}"
        raise NotFound(f"No model `{model}` is loaded.", where="model", remedy=f"Load it, or ask for {self.base}.")


async def stream(ticket: Ticket, first: Delta, wire: Wire) -> AsyncIterator[bytes]:
    """An answer as server-sent events; an error that comes in the middle is the last of them."""
    completed: dict[int, int] = {}
    try:
        delta: Delta | None = first
        while delta is not None:
            if delta.index not in completed:
                yield wire.chunk({"role": "assistant", "content": ""}, delta.index)
            completed[delta.index] = delta.completion_tokens
            if delta.text or delta.logprobs:
                yield wire.chunk({"content": delta.text}, delta.index, logprobs=delta.logprobs)
            if delta.finish_reason:
                yield wire.chunk({}, delta.index, delta.finish_reason)
            delta = await anext(ticket, None)
        if wire.include_usage:
            yield wire.usage_chunk(first.prompt_tokens, sum(completed.values()))
        yield DONE
    except Exception as error:
        yield event(envelope(_known(error)))
    finally:
        ticket.cancel()


async def whole(ticket: Ticket, wire: Wire) -> dict[str, Any]:
    """An answer as one body."""
    texts: dict[int, str] = {}
    told: dict[int, list[TokenLogprob]] = {}
    last: dict[int, Delta] = {}
    prompt: tuple[TokenLogprob, ...] | None = None
    async for delta in ticket:
        texts[delta.index] = texts.get(delta.index, "") + delta.text
        told.setdefault(delta.index, []).extend(delta.logprobs)
        last[delta.index] = delta
        prompt = prompt or delta.prompt_logprobs
    choices = [(texts[index], last[index].finish_reason, told[index]) for index in sorted(texts)]
    body = wire.body(choices, last[0].prompt_tokens, sum(delta.completion_tokens for delta in last.values()))
    return body if prompt is None else body | {"prompt_logprobs": wire.prompt_logprobs(prompt)}


async def unless_gone(request: Request, ticket: Ticket, work: Coroutine[Any, Any, T]) -> T:
    """Wait for a part of an answer; when the client hangs up meanwhile, cancel the answer.

    Raises:
        Cancelled: The client is gone.
    """
    waiting = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise Cancelled("The client is gone.")
    except BaseException:
        ticket.cancel()
        raise
    finally:
        gone.cancel()
        waiting.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(first: Pool) -> FastAPI:
    """The engine's server; `first` answers what belongs to none of `settings().more_bases`, opened when asked for."""
    app = FastAPI(title="Moatelier engine", docs_url=None, redoc_url=None, openapi_url=None, telemetry=TELEMETRY)
    bases, embedder = Bases(first, lambda base: Pool(base, first.senses)), Embedder()
    sensing.add_routes(app, first.senses)
    watching.add_routes(app, lambda: bases.open)
    app.add_exception_handler(Exception, _fail)
    for kind in (MoatelierError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _fail)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        pool = bases.of(body.model)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        spell = pool.spell if body.logprobs or body.prompt_logprobs is not None else None
        wire = Wire(body.model, pool.fingerprint(body.model), include_usage, spell, logprobs=bool(body.logprobs))
        if pool.is_sensed(body.model):
            return await sensing.chat(pool.senses, body, wire)
        ticket = await pool.show(body) if pool.is_shown(body.model) else pool.answer(body)
        if not body.stream:
            return JSONResponse(await unless_gone(request, ticket, whole(ticket, wire)))
        # The first token decides about the status: what goes wrong before it is an error, not a broken stream.
        head = await unless_gone(request, ticket, ticket.__anext__())
        return StreamingResponse(stream(ticket, head, wire), media_type="text/event-stream", headers=STREAM_HEADERS)

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest) -> dict[str, Any]:
        if bases.of(body.model).is_sensed(body.model):
            return await sensing.embed(first.senses, body)
        return await embedder.answer(body)

    @app.post("/v1/classify")
    async def classify(body: ClassifyRequest, request: Request) -> dict[str, Any]:
        pool = bases.of(body.model)
        if pool.is_sensed(body.model):
            return await sensing.classify(pool.senses, body)
        return await pool.label(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        known = [entry for pool in bases.open.values() for entry in pool.models(sensed=pool is first)]
        return {"object": "list", "data": known, "has_more": False}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        pool = bases.of(model)
        pool.fingerprint(model)
        return next(entry for entry in pool.models() if entry["id"] == model)

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadRequest) -> Response:
        if body.lora_name in settings().text_bases or body.lora_name == first.base:
            raise InvalidRequest("An adapter cannot have the base's name.", where="lora_name", remedy="Use another.")
        path = Path(body.lora_path)
        manifest = await asyncio.to_thread(read_manifest, path)
        pool = bases.of_base(manifest.base)
        if manifest.modality == SHOWN:
            await pool.driver.call(lambda _: pool.looking().load_adapter(body.lora_name, path, body.pinned))
        elif await pool.senses.takes(path):
            await pool.senses.load(body.lora_name, path, body.pinned)
        else:
            await pool.driver.call(lambda engine: engine.load_adapter(body.lora_name, path, body.pinned))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadRequest) -> Response:
        pool = bases.of(body.lora_name)
        if body.lora_name in pool.senses.adapters:
            await pool.senses.unload(body.lora_name)
        elif pool.is_shown(body.lora_name):
            await pool.driver.call(lambda _: pool.looking().unload_adapter(body.lora_name))
        else:
            await pool.driver.call(lambda engine: engine.unload_adapter(body.lora_name))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        busy = sum(pool.driver.busy for pool in bases.open.values())
        return {"status": "ok", "base": first.base, "loaded": first.loaded, "busy": busy} | first.counts()

    return app


def _known(error: Exception) -> MoatelierError:
    """Any error as one of ours."""
    if isinstance(error, MoatelierError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return InvalidRequest(f"{first['msg']}.", where=".".join(str(part) for part in first["loc"][1:]))
    if isinstance(error, HTTPException):
        return NotFound(f"{error.detail}.") if error.status_code == 404 else InvalidRequest(f"{error.detail}.")
    return MoatelierError(f"{type(error).__name__}: {error}")


async def _fail(request: Request, error: Exception) -> Response:
    known = _known(error)
    status = error.status_code if isinstance(error, HTTPException) else known.status
    return JSONResponse(envelope(known), status_code=status)


def main() -> None:
    """Run the engine until it is told to stop."""
    try:
        watching.configure()
        serve(create_app(Pool(settings().base)), "127.0.0.1", settings().engine_port)
    except MoatelierError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
