"""An engine that waits instead of computing: what is measured around it is not its own work.

    python -m benchmarks.waiting_engine --port P [--seconds 0.02] [--lanes N]

A short chat takes `seconds`; at most `lanes` are at it at the same time, so that it answers `lanes / seconds` a second.
Asked to `hold`, it streams a word a second for ever.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from moatelier.settings import settings


def create(seconds: float, lanes: int | None) -> FastAPI:
    """Its app."""
    app = FastAPI()
    turn = asyncio.Semaphore(lanes) if lanes else nullcontext()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if body["messages"][-1]["content"] == "hold":
            return StreamingResponse(_words(body["model"]), media_type="text/event-stream")
        async with turn:
            await asyncio.sleep(seconds)
        message = {"role": "assistant", "content": "ok", "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse(_frame(body["model"], "chat.completion") | {"choices": [choice], "usage": usage})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": settings().base, "object": "model"}], "has_more": False}

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    return app


async def _words(model: str) -> AsyncIterator[bytes]:
    while True:
        choice = {"index": 0, "delta": {"content": "word "}, "logprobs": None, "finish_reason": None}
        chunk = _frame(model, "chat.completion.chunk") | {"choices": [choice]}
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
        await asyncio.sleep(1)


def _frame(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model, "system_fingerprint": "fp_fake"}


def main() -> None:
    """Serve on loopback until told to stop."""
    parser = argparse.ArgumentParser(description="An engine that waits.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--lanes", type=int)
    given = parser.parse_args()
    app = create(given.seconds, given.lanes)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
