"""The engine, seen from the routes: adapters are loaded at first use, and again when the engine has forgotten them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
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

    async def chat(self, payload: dict[str, Any], *targets: Target) -> dict[str, Any]:
        """One whole completion by what the payload names, which are these targets. Raises what the upstream raises."""

        async def ask() -> dict[str, Any]:
            return await self.upstream.chat(payload)

        return await self._with_adapters(targets, ask)

    async def stream(self, payload: dict[str, Any], *targets: Target) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed completion. An error before the first of them is raised here, not in the stream."""

        async def open_stream() -> tuple[bytes, AsyncGenerator[bytes, None]]:
            chunks = self.upstream.stream(payload)
            return await anext(chunks, b""), chunks

        head, rest = await self._with_adapters(targets, open_stream)
        return _joined(head, rest)

    async def _with_adapters(self, targets: Sequence[Target], call: Callable[[], Awaitable[T]]) -> T:
        for target in targets:
            await self._load(target)
        try:
            return await call()
        except MoatelierError:
            forgotten = await self._forgotten([target for target in targets if target.bundle])
            if not forgotten:
                raise
        for target in forgotten:
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
                if target.served not in await self._listed():
                    raise
            self._loaded.add(target.served)

    async def _forgotten(self, targets: Sequence[Target]) -> list[Target]:
        """Those that the engine, if it answers, does not list: a dead engine is no reason to load again."""
        if not targets:
            return []
        try:
            listed = await self._listed()
        except MoatelierError:
            return []
        return [target for target in targets if target.served not in listed]

    async def _listed(self) -> set[str]:
        return {str(model.get("id")) for model in await self.upstream.models()}


async def _joined(head: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield head
        async for chunk in rest:
            yield chunk
