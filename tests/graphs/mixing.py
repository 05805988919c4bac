"""Recipes on fakes: a backend that answers at once as it is told to, and mixtures without a store."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from graphs.answering import Answers
from moatelier.contracts import Recipe, now
from moatelier.errors import NotFound
from moatelier.settings import settings
from serving.asking import Asker
from serving.auto import Auto
from serving.backend import Backend
from serving.brief import Brief
from serving.mixtures import Mixture
from serving.router import Ranked
from serving.targets import Target
from store.recipes import StoredRecipe
from tests.faulty import completion

Reply = Callable[[dict[str, Any]], Any]
"""What is asked -> a text, (text, likelihood), or an error to be raised."""


def digest(name: str) -> str:
    """A digest that can be told from others by its beginning."""
    return (name.encode().hex() + "0" * 64)[:64]


def target(name: str) -> Target:
    """What answers under a name; `base` is the base, `eyes` and `ears` are for pictures and recordings."""
    base = settings().base
    if name in ("base", base):
        return Target(base, base, base, None, None, "base")
    modality = {"eyes": "vision", "ears": "audio"}.get(name, "text")
    served, bundle = f"{name}@{digest(name)}", Path("/bundles") / name
    return Target(name, f"ft:{name}", served, digest(name), bundle, "exact", modality=modality)


def mixture(recipe: dict[str, Any], *, state: str = "live", others: dict[str, Mixture] | None = None) -> Mixture:
    """A resolved recipe; adapters are named by their names."""
    text = json.dumps(recipe)
    sealed = Recipe.model_validate(json.loads(text))
    named = {voice.adapter for voice in sealed.voices if voice.adapter}
    for name in named:
        text = text.replace(f'"adapter": "{name}"', f'"adapter": "{digest(name)}"')
    for label, other in (others or {}).items():
        text = text.replace(f'"recipe": "{label}"', f'"recipe": "{label}@{other.stored.digest}"')
    sealed = Recipe.model_validate(json.loads(text))
    stored = StoredRecipe(
        project="default",
        name=sealed.name,
        digest=sealed.digest,
        source=text,
        sealed=sealed,
        state=cast(Any, state),
        reason="a test",
        record=None,
        created_at=now(),
        updated_at=now(),
    )
    targets = {digest(name): target(name) for name in named} | {settings().base: target("base")}
    known = {f"{label}@{other.stored.digest}": other for label, other in (others or {}).items()}
    return Mixture(stored, targets, known)


@dataclass
class FakeBackend:
    """Answers as `reply` says, after `wait_s` seconds of the model; keeps what it was asked."""

    reply: Reply
    wait_s: dict[str, float] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def chat(self, payload: dict[str, Any], *targets: Target) -> dict[str, Any]:
        name = self._take(payload, targets)
        try:
            if wait := self.wait_s.get(name):
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.ended.append(name)
            raise
        text, likelihood = self._said(payload)
        return completion(text, likelihood)

    async def stream(self, payload: dict[str, Any], *targets: Target) -> AsyncGenerator[bytes, None]:
        self._take(payload, targets)
        text, _ = self._said(payload)
        return self._streamed(text)

    async def _streamed(self, text: str) -> AsyncGenerator[bytes, None]:
        words = text.split(" ")
        for place, word in enumerate(words):
            if word == "<break>":
                return
            piece = word + " " * (place < len(words) - 1)
            yield _sse({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        yield _sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(words)}})
        yield b"data: [DONE]\n\n"

    def _take(self, payload: dict[str, Any], targets: tuple[Target, ...]) -> str:
        self.asked.append(payload)
        name = payload["model"].split("@")[0]
        assert [one.served for one in targets] == payload.get("ensemble", [payload["model"]]), "what is loaded is asked"
        return str(name)

    def _said(self, payload: dict[str, Any]) -> tuple[str, float]:
        said = self.reply(payload)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, tuple) else (said, -0.1)

    def models(self) -> list[str]:
        """Who was asked, in order, without digests."""
        return [payload["model"].split("@")[0] for payload in self.asked]


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class FakeAuto:
    """A router with one opinion, or with none."""

    def __init__(self, chances: dict[str, float] | Exception) -> None:
        self.chances, self.calls = chances, 0

    async def ranked(self, project: str, messages: Any) -> Ranked:
        self.calls += 1
        if isinstance(self.chances, Exception):
            raise self.chances
        order = sorted(self.chances.items(), key=lambda pair: -pair[1])
        names = tuple(name if name == "base" else digest(name) for name, _ in order)
        return Ranked(names, tuple(chance for _, chance in order), 0.5)


def resolve(wanted: tuple[str, str]) -> Target:
    """Any digest that `digest` made is an adapter, but that of `gone`."""
    name = bytes.fromhex(wanted[1]).rstrip(b"\x00").decode()
    if name.startswith("gone"):
        raise NotFound("There is no such adapter.", where=name)
    return target(name)


def answers(backend: FakeBackend, router: dict[str, float] | Exception | None = None) -> Answers:
    """The public face on fakes. Make it within the running loop."""
    auto = FakeAuto(router if router is not None else NotFound("`auto` has no adapter to choose from yet."))
    return Answers(Asker(cast(Backend, backend)), cast(Auto, auto), Brief(resolve))


def play(backend: FakeBackend, made: Mixture, router: Any = None, said: Any = "where is it", **more: Any) -> Any:
    """One question's trace; `said` is a text or parts."""

    async def scene() -> Any:
        return await answers(backend, router).answer(made, [{"role": "user", "content": said}], **more)

    return asyncio.run(scene())
