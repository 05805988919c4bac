"""A small engine that speaks the dialect without a model: it answers `<model>: <what was said last>`.

What is said steers it: `slow` streams a word every 50 ms for ever, `flood`
as many as are taken, `break` breaks the connection in the middle,
`vanish` ends the stream in the middle, `fail` sends an error in the middle, `refuse` is refused at once. With
`ensemble` all of its models speak as one.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from numpy.typing import NDArray

from serving import embeddings as embedded

BASE = "smollm2-135m-instruct"
DIMS = 48


@dataclass
class Engine:
    """What the fake has loaded and what it was asked; `hung_up` counts answers whose client went away."""

    loaded: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    hung_up: int = 0
    strict: bool = True
    """Loading what is loaded is an error, as in vLLM."""
    embeds: bool = True
    """The embedding model is there."""


def vector(text: str) -> NDArray[np.float32]:
    """A text as a vector of unit length: the sum of its words, so that texts with the same words are near."""
    words = [np.random.default_rng(crc32(word.encode())).normal(size=DIMS) for word in text.lower().split()]
    total = np.sum(words, axis=0)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


def _frame(body: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{number}",
        "object": kind,
        "created": 1,
        "model": body["model"],
        "system_fingerprint": "fp_engine",
    }


def _error(message: str, status: int, code: str | None = None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": "model", "code": code}
    return JSONResponse({"error": error}, status_code=status)


def create(engine: Engine) -> FastAPI:
    """The fake's app."""

    def count(request: Request) -> None:
        engine.calls.append(f"{request.method} {request.url.path}")

    app = FastAPI(dependencies=[Depends(count)])

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        engine.requests.append(body)
        if not all(isinstance(message, dict) and "content" in message for message in body["messages"]):
            return _error("A message is an object with a role and a content.", 400, "invalid_request")
        number, said = len(engine.requests), str(body["messages"][-1]["content"])
        for name in body.get("ensemble", [body["model"]]):
            if name != BASE and name not in engine.loaded:
                return _error(f"No model `{name}` is loaded.", 404, "not_found")
        if said == "refuse":
            return _error("n is not supported by this engine.", 400, "invalid_request")
        if body.get("stream"):
            return StreamingResponse(_stream(engine, body, said, number), media_type="text/event-stream")
        if said == "slow":
            await _wait_for_hang_up(engine, request)
        told = {"content": [{"token": "x", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
        message = {"role": "assistant", "content": f"{_speaker(body)}: {said}", "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        choice["logprobs"] = told if body.get("logprobs") else None
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return JSONResponse(_frame(body, "chat.completion", number) | {"choices": [choice], "usage": usage})

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = await request.json()
        if not engine.embeds:
            return _error("The model is not pulled. Run `moatelier models pull`.", 503, "model_unavailable")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            return _error("Only texts can be embedded.", 400, "invalid_request")
        form = body.get("encoding_format", "float")
        return JSONResponse(embedded.body(np.stack([vector(text) for text in texts]), body["model"], form, 7))

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        body = await request.json()
        if body["model"] not in engine.loaded:
            return _error(f"No model `{body['model']}` is loaded.", 404, "not_found")
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        if not inputs or not all(isinstance(text, str) and text for text in inputs):
            return _error("Only texts can be classified.", 400, "invalid_request")
        label = {"label": "card", "probs": [0.9, 0.1], "labels": ["card", "parcel"], "num_classes": 2}
        frame = {"id": "classify-1", "object": "list", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
        return JSONResponse(
            frame | {"data": [{"index": place} | label for place in range(len(inputs))], "usage": usage}
        )

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name} for name in (BASE, *engine.loaded)]}

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        body = await request.json()
        if engine.strict and body["lora_name"] in engine.loaded:
            return _error("The adapter has already been loaded.", 400)
        engine.loaded[body["lora_name"]] = body["lora_path"]
        return PlainTextResponse("Success")

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _speaker(body: dict[str, Any]) -> str:
    return "+".join(body.get("ensemble", [body["model"]]))


async def _wait_for_hang_up(engine: Engine, request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    engine.hung_up += 1


async def _stream(engine: Engine, body: dict[str, Any], said: str, number: int) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _sse(_frame(body, "chat.completion.chunk", number) | {"choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    words = [f"{_speaker(body)}:", *said.split()]
    for word in words:
        yield chunk({"content": word + " "})
    if said == "break":
        raise ConnectionError("the fake engine was killed, as it was told to be")
    if said == "vanish":
        return
    if said == "fail":
        yield _sse({"error": {"message": "Out of memory.", "type": "server_error", "param": None, "code": "oom"}})
        return
    try:
        while said == "flood":
            await asyncio.sleep(0.005)  # others have a word too
            yield chunk({"content": "flood " * 10_000})
        while said == "slow":
            await asyncio.sleep(0.05)
            yield chunk({"content": "slow "})
    except asyncio.CancelledError:
        engine.hung_up += 1
        raise
    yield chunk({}, "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        yield _sse(_frame(body, "chat.completion.chunk", number) | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"
