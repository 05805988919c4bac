"""Recipes on answers that were given before: the inference graph as it is served, with a table in the engine's place.

Each model is asked once for each row. After that any number of recipes can be tried: the graph, the plan, the gate and
the aggregators are the product's own, only the backend looks up what the engine would say, and the router's word is
that of the real router, computed before.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import Any, NamedTuple, cast

from graphs.answering import Answers
from moatelier.contracts import Recipe, now
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from modalities.bundle import bundle_folder
from serving.asking import Asker
from serving.auto import Auto
from serving.backend import Backend
from serving.brief import Brief
from serving.completions import Said
from serving.mixtures import Mixture
from serving.router import BASE, Ranked, routed_text
from serving.targets import Target
from store.recipes import StoredRecipe

Key = tuple[str, str, int | None]
"""(who: a digest, BASE, or several `together`; the text; the number of a sample, None for a greedy answer)."""


def together(digests: Sequence[str]) -> str:
    """The name of those that choose each token together, whatever their order."""
    return "+".join(sorted(digests))


class Given(NamedTuple):
    """An answer, and its price: models that were asked and tokens that they generated."""

    text: str
    calls: int
    tokens: int


@dataclass
class Table:
    """What was said, in the place of a `Backend`; counts what is asked of it.

    Attributes:
        said: What everybody said.
        temperature: Of the samples.
    """

    said: Mapping[Key, Said]
    temperature: float
    calls: int = field(default=0, init=False)
    tokens: int = field(default=0, init=False)

    async def chat(self, payload: Mapping[str, Any], *targets: Target) -> dict[str, Any]:
        """A completion as the engine's server gives it. An answer that was never given is our own mistake."""
        names = [target.digest or BASE for target in targets]
        heat, text = payload.get("temperature"), routed_text(payload["messages"])
        assert heat is None or isclose(heat, self.temperature), "samples were made at one temperature"
        said = self.said[together(names), text, None if heat is None else payload["seed"]]
        self.calls, self.tokens = self.calls + len(names), self.tokens + said.completion_tokens
        return _completion(said)


def _completion(said: Said) -> dict[str, Any]:
    told = None if said.likelihood is None else {"content": [{"token": "", "logprob": said.likelihood}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": said.text}, "finish_reason": said.finish_reason}
    usage = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
    return {"object": "chat.completion", "choices": [choice | {"logprobs": told}], "usage": usage}


@dataclass(frozen=True)
class Ranks:
    """The router's word on each text, in the place of `Auto`."""

    known: Mapping[str, Ranked]

    async def ranked(self, project: str, messages: Sequence[Mapping[str, Any]]) -> Ranked:
        """As `Auto` does."""
        return self.known[routed_text(messages)]


def target(digest: str) -> Target:
    """A sealed adapter, or BASE, as what answers."""
    base = settings().base
    if digest == BASE:
        return Target(base, base, base, None, None, "base")
    return Target(digest, digest, digest, digest, bundle_folder(digest), "exact")


def mixture(recipe: Recipe) -> Mixture:
    """A recipe that names its adapters by digest, with what it names at hand."""
    named = {voice.adapter for voice in recipe.voices if voice.adapter}
    stored = StoredRecipe(
        project=settings().project,
        name=recipe.name,
        digest=recipe.digest,
        source="",
        sealed=recipe,
        state="draft",
        reason="",
        record=None,
        created_at=now(),
        updated_at=now(),
    )
    return Mixture(stored, {digest: target(digest) for digest in named} | {settings().base: target(BASE)})


def played(recipe: Recipe, texts: Sequence[str], table: Table, ranks: Ranks) -> list[Given]:
    """The recipe's answer to each text, in order; one that fails is the answer ""."""
    made = mixture(recipe)
    find: Brief[tuple[str, str], Target] = Brief(lambda wanted: target(wanted[1]), seconds=3600.0)

    async def scene() -> list[Given]:
        return [await _one(made, text, table, ranks, find) for text in texts]

    return asyncio.run(scene())


async def _one(made: Mixture, text: str, table: Table, ranks: Ranks, find: Brief[tuple[str, str], Target]) -> Given:
    # An asker of its own: the rows pass in seconds, and a model that failed on a few would be left alone for ten.
    answers = Answers(Asker(cast(Backend, table)), cast(Auto, ranks), find)
    table.calls = table.tokens = 0
    try:
        trace = await answers.answer(
            made, [{"role": "user", "content": text}], {"seed": 0}
        )  # the n-th sample then has seed n
    except MoatelierError:
        return Given("", table.calls, table.tokens)
    return Given(trace.text, table.calls, table.tokens)
