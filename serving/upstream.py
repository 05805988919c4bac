"""Anything that speaks the OpenAI dialect: the embedded engine, a vLLM server, a hosted endpoint.

Every call goes through the same four things: at most so many at once, a circuit breaker, a time limit, and another
attempt where that is safe (`serving/retries.py`). The breaker counts only that nobody can be reached: one of the many
models behind an address may fail as often as it likes without silencing the others (`serving/asking.py` has theirs).
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from pydantic import SecretStr

from moatelier import genai, tracing
from moatelier.errors import MoatelierError, UpstreamError, UpstreamRefused
from moatelier.loopback import is_loopback
from serving.breaker import Breaker
from serving.completions import clean
from serving.retries import UNSENT, Again, Retries, after_s

CONNECT_S = 5.0
REFUSED = (400, 413, 422)
"""Statuses that say that the request is at fault, not the upstream."""
_OURS = frozenset(
    "model_unavailable not_found invalid_request data_error conflict integrity_error".split()
    + ["deadline_exceeded", "overloaded"]
)


class Upstream:
    """A client for one endpoint. Use it on one event loop, and close it.

    Args:
        base_url: With or without the final `/v1`.
        key: Sent as a bearer token; never logged, never part of an error.
        timeout_s: Longest silence within an answer, also before its first byte.
        concurrency: Requests under way at once; further ones wait their turn. None does not limit them.
        open_s: For so long it is left alone when it could not be reached five times in a row.
        retries: How often it is asked again where that is safe.
        headers: Sent with every request.
    """

    def __init__(
        self,
        base_url: str,
        key: SecretStr | str | None = None,
        timeout_s: float = 600.0,
        *,
        concurrency: int | None = None,
        open_s: float = 1.0,
        retries: Retries | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.breaker = Breaker(self.url, open_s=open_s)
        self._turn = asyncio.Semaphore(concurrency) if concurrency else nullcontext()
        self._retries = retries or Retries()
        secret = key.get_secret_value() if isinstance(key, SecretStr) else key
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={**(headers or {}), **({"authorization": f"Bearer {secret}"} if secret else {})},
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=not is_loopback(self.url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def chat(self, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A whole chat completion.

        Raises:
            UpstreamError: Unreachable, too slow, or an answer that is none. Also the upstream's own error, as the
                class its code names where it is one of ours.
        """
        with tracing.span(f"chat {payload.get('model')}", genai.asked(payload), tracing.SpanKind.CLIENT) as current:
            answer = await self._json("POST", "/v1/chat/completions", {**payload, "stream": False}, headers)
            current.set_attributes(genai.answered(answer))
            return answer

    def stream(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a chat completion's server-sent events, as they come. Closing the iterator hangs up.

        Raises:
            UpstreamError: As for `chat`; in the middle when the connection breaks.
        """
        return self._parts(self._request("POST", "/v1/chat/completions", {**payload, "stream": True}, headers))

    async def _parts(self, request: httpx.Request) -> AsyncGenerator[bytes, None]:
        async with self._turn:
            answer = await self._retries.run(partial(self._once, request, streamed=True))
            try:
                async for part in answer.aiter_bytes():
                    yield part
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            finally:
                await answer.aclose()

    async def embed(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer with embeddings, as the payload asks for them. Raises like `chat`."""
        return await self._json("POST", "/v1/embeddings", payload)

    async def embeddings(self, inputs: Sequence[str | dict[str, Any]], model: str) -> list[list[float]]:
        """The vectors of texts, or of pictures or recordings as parts, in their order, by a model for them.

        Raises:
            UpstreamError: As for `chat`, or an answer that does not hold a vector for each.
            ModelUnavailable: The upstream does not have the model.
        """
        payload = {"model": model, "input": list(inputs), "encoding_format": "base64"}
        answer = await self.embed(payload)
        try:
            found = {int(item["index"]): _vector(item["embedding"]) for item in answer["data"]}
            return [found[place] for place in range(len(inputs))]
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError("The upstream's answer holds no such embeddings.", where=self.url) from error

    async def transcribe(self, fields: Mapping[str, Any], name: str, data: bytes) -> dict[str, Any]:
        """A recording's transcript as `verbose_json`. Raises like `chat`.

        Args:
            fields: Of the form: `model`, `language`, ...; a list gives a field several values.
            name: What its owner calls the recording.
            data: The encoded recording.
        """
        body = await self._body(self._recording({**fields, "response_format": "verbose_json"}, name, data))
        if not isinstance(body.get("text"), str):
            raise UpstreamError("The upstream's answer is no transcript.", where=self.url)
        return body

    def hear(self, fields: Mapping[str, Any], name: str, data: bytes) -> AsyncGenerator[bytes, None]:
        """The bytes of a transcript's server-sent events, as they come; as for `transcribe` and `stream`."""
        return self._parts(self._recording({**fields, "stream": "true"}, name, data))

    def _recording(self, form: Mapping[str, Any], name: str, data: bytes) -> httpx.Request:
        files = {"file": (name, data)}
        path, headers = "/v1/audio/transcriptions", tracing.headers()
        return self._client.build_request("POST", path, data=dict(form), files=files, headers=headers)

    async def classify(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The labels of texts, pictures or recordings. Raises like `chat`."""
        return await self._json("POST", "/v1/classify", payload)

    async def models(self) -> list[dict[str, Any]]:
        """What the upstream serves now."""
        answer = await self._json("GET", "/v1/models")
        if not isinstance(answer.get("data"), list):
            raise UpstreamError("The upstream's list of models is none.", where=self.url)
        return list(answer["data"])

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load a sealed bundle under a name; the same one again changes nothing."""
        await self._send(self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)}))

    async def unload_adapter(self, name: str) -> None:
        """Forget a loaded adapter."""
        await self._send(self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name}))

    async def metrics(self) -> str:
        """What the upstream counts, in Prometheus' text format. Raises UpstreamError where it tells nothing."""
        return (await self._send(self._request("GET", "/metrics"))).text

    async def health(self) -> dict[str, Any]:
        """What the upstream says of itself; {} when it only says that it is well."""
        answer = await self._send(self._request("GET", "/healthz"))
        try:
            body = answer.json()
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    async def _json(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        return await self._body(self._request(method, path, payload, headers))

    async def _body(self, request: httpx.Request) -> dict[str, Any]:
        answer, url = await self._send(request), str(request.url)
        try:
            body = answer.json()
        except (ValueError, RecursionError) as error:
            raise UpstreamError("The upstream's answer is not JSON.", where=url) from error
        if not isinstance(body, dict):
            raise UpstreamError("The upstream's answer is not a JSON object.", where=url)
        return body

    async def _send(self, request: httpx.Request) -> httpx.Response:
        async with self._turn:
            return await self._retries.run(partial(self._once, request))

    def _request(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        return self._client.build_request(method, path, json=payload, headers={**tracing.headers(), **(headers or {})})

    async def _once(self, request: httpx.Request, *, streamed: bool = False) -> httpx.Response:
        """One attempt; its body is read unless it is streamed.

        Raises:
            Again: It failed, and the same request may be sent again.
            MoatelierError: It failed, and may not.
        """
        try:
            with self.breaker.guard(counts=lambda error: isinstance(error.__cause__, UNSENT)):
                answer = await self._answer(request, streamed=streamed)
        except UpstreamError as error:
            cause = error.__cause__
            safe = isinstance(cause, UNSENT) or (request.method == "GET" and isinstance(cause, httpx.HTTPError))
            raise (Again(error) if safe else error) from cause
        if answer.status_code >= 400:
            wait = after_s(answer)
            raise self._error(answer) if wait is None else Again(self._error(answer), wait)
        return answer

    async def _answer(self, request: httpx.Request, *, streamed: bool) -> httpx.Response:
        """What the upstream answers, also when it refuses. Raises UpstreamError when it does not."""
        try:
            answer = await self._client.send(request, stream=streamed)
            if answer.status_code >= 400:
                await answer.aread()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> UpstreamError:
        slow = isinstance(error, httpx.TimeoutException)
        what = "The upstream was too slow" if slow else "The upstream cannot be reached"
        reason = str(error) or type(error).__name__
        return UpstreamError(f"{what}: {reason}.", where=self.url, remedy="Check that it runs.")

    def _error(self, answer: httpx.Response) -> MoatelierError:
        """The upstream's own words, in our class when its code is one of ours."""
        try:
            told = json.loads(answer.content)["error"]
            message, code, param = str(told["message"]), told.get("code"), told.get("param")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            message, code, param = answer.text[:500] or answer.reason_phrase, None, None
        if code in _OURS:
            return MoatelierError.from_dict({"code": code, "what": clean(message), "where": clean(str(param or ""))})
        kind = UpstreamRefused if answer.status_code in REFUSED else UpstreamError
        return kind(f"The upstream answered {answer.status_code}: {clean(message)}", where=self.url)


def _vector(given: str | list[float]) -> list[float]:
    """A vector in either of the dialect's forms: some servers know only one of them."""
    if isinstance(given, str):
        return [float(number) for number in np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4")]
    return [float(number) for number in given]
