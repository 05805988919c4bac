"""The engine, seen from the routes: adapters are loaded at first use, and again when the engine has forgotten them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from itertools import count
from typing import Any, TypeVar

from moatelier.errors import MoatelierError
from serving.admission import Admission, Held
from serving.targets import Target
from serving.upstream import Upstream

T = TypeVar("T")


class Backend:
    """One keep-alive client to the engine and what is known to be loaded there.

    Nothing is asked of the engine before a request is forwarded; only a request that fails makes us look whether the
    engine still knows the adapter (it may have been restarted since).

    Args:
        upstream: The engine.
        admission: Lets requests to it in; None lets in all.
    """

    def __init__(self, upstream: Upstream, admission: Admission | None = None) -> None:
        self.upstream = upstream
        self._admission = admission
        self._loaded: dict[str, int] = {}
        """Name on the engine -> which of our loads put it there."""
        self._loads = count()
        self._loading = asyncio.Lock()

    async def chat(self, payload: dict[str, Any], *targets: Target) -> dict[str, Any]:
        """One whole completion by what the payload names, which are these targets. Raises what the upstream raises."""

        async def ask() -> dict[str, Any]:
            return await self.upstream.chat(payload)

        async with self._admission or nullcontext():
            return await self._with_adapters(targets, ask)

    async def with_adapter(self, target: Target, call: Callable[[], Awaitable[T]]) -> T:
        """Any other call to the engine that needs a target's adapter there. Raises what the call raises."""
        async with self._admission or nullcontext():
            return await self._with_adapters((target,), call)

    async def stream(self, payload: dict[str, Any], *targets: Target) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed completion. An error before the first of them is raised here, not in the stream."""
        return await self.opened(lambda: self.upstream.stream(payload), *targets)

    async def opened(
        self, call: Callable[[], AsyncGenerator[bytes, None]], *targets: Target
    ) -> AsyncGenerator[bytes, None]:
        """The same for any other answer of the engine that comes as a stream."""

        async def open_stream() -> tuple[bytes, AsyncGenerator[bytes, None]]:
            chunks = call()
            return await anext(chunks, b""), chunks

        leave = await self._admission.enter() if self._admission else lambda: None
        try:
            head, rest = await self._with_adapters(targets, open_stream)
        except BaseException:
            leave()
            raise
        return Held(_joined(head, rest), leave)

    async def _with_adapters(self, targets: Sequence[Target], call: Callable[[], Awaitable[T]]) -> T:
        adapted = [target for target in targets if target.bundle]
        for target in adapted:
            await self._load(target)
        known = {target.served: self._loaded.get(target.served) for target in adapted}
        try:
            return await call()
        except MoatelierError:
            if not await self._mended(adapted, known):
                raise
        return await call()

    async def _mended(self, targets: Sequence[Target], known: Mapping[str, int | None]) -> bool:
        """Load again what the engine has forgotten; whether that, or another request's load meanwhile, was needed."""
        listed = await self._listed_or_all(targets)
        mended = False
        for target in targets:
            if self._loaded.get(target.served) == known[target.served]:
                if target.served in listed:
                    continue
                self._loaded.pop(target.served, None)
            await self._load(target)
            mended = True
        return mended

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
            self._loaded[target.served] = next(self._loads)

    async def _listed_or_all(self, targets: Sequence[Target]) -> set[str]:
        """What the engine lists, if it answers: a dead engine is no reason to load again."""
        try:
            return await self._listed() if targets else set()
        except MoatelierError:
            return {target.served for target in targets}

    async def _listed(self) -> set[str]:
        return {str(model.get("id")) for model in await self.upstream.models()}


async def _joined(head: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield head
        async for chunk in rest:
            yield chunk
