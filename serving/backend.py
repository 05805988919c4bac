"""The engine, seen from the routes: adapters are loaded at first use, and again when the engine has forgotten them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from moatelier.errors import MoatelierError
from serving.targets import Target
from serving.upstream import Upstream

T = TypeVar("T")


class Backend:
    """One keep-alive client to the engine and what is known to be loaded there.

    Nothing is asked of the engine before a request is forwarded; only a request that fails makes us look whether the
    engine still knows the adapter (it may have been restarted since).
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._loaded: set[str] = set()
        self._loading = asyncio.Lock()

    async def chat(self, target: Target, payload: dict[str, Any]) -> dict[str, Any]:
        """One whole completion. Raises what the upstream raises."""

        async def ask() -> dict[str, Any]:
            return await self.upstream.chat(payload)

        return await self._with_adapter(target, ask)

    async def stream(self, target: Target, payload: dict[str, Any]) -> AsyncIterator[bytes]:
        """The bytes of a streamed completion. An error before the first of them is raised here, not in the stream."""

        async def open_stream() -> tuple[bytes, AsyncIterator[bytes]]:
            chunks = self.upstream.stream(payload)
            return await anext(chunks, b""), chunks

        head, rest = await self._with_adapter(target, open_stream)
        return _joined(head, rest)

    async def _with_adapter(self, target: Target, call: Callable[[], Awaitable[T]]) -> T:
        await self._load(target)
        try:
            return await call()
        except MoatelierError:
            if target.bundle is None or await self._knows(target):
                raise
        self._loaded.discard(target.served)
        await self._load(target)
        return await call()

    async def _load(self, target: Target) -> None:
        if target.bundle is None or target.served in self._loaded:
            return
        async with self._loading:
            if target.served in self._loaded:
                return
            try:
                await self.upstream.load_adapter(target.served, target.bundle)
            except MoatelierError:
                # vLLM refuses to load what it has; that is what we find after a restart of this process.
                if not await self._lists(target):
                    raise
            self._loaded.add(target.served)

    async def _knows(self, target: Target) -> bool:
        """False only if the engine answers and does not list the adapter: a dead engine is no reason to load again."""
        try:
            return await self._lists(target)
        except MoatelierError:
            return True

    async def _lists(self, target: Target) -> bool:
        return any(model.get("id") == target.served for model in await self.upstream.models())


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk
