"""Recipes on the embedded engine itself, with the tiny base: what the fakes stand for is what it does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from graphs.answering import answering
from moatelier.contracts import Recipe, Trace
from modalities.bundle import read_manifest
from serving import mixtures
from serving.aggregate import select
from serving.pool import Pool, create_app
from store import adapters, recipes
from tests.api.running import running
from tests.serving.conftest import seal_adapter

ASKED = [{"role": "user", "content": "where is my parcel"}]


@pytest.fixture
def trio(tiny: str, tmp_path: Path) -> list[str]:
    """Digests of three registered adapters."""
    bundles = [seal_adapter(tiny, tmp_path, name, seed=seed) for seed, name in enumerate(("a", "b", "c"), start=1)]
    return [adapters.register("default", read_manifest(bundle), "task-1").digest for bundle in bundles]


def test_every_rung_of_the_ladder(trio: list[str], tiny: str) -> None:
    proposers: list[dict[str, Any]] = [{"adapter": digest} for digest in trio]
    kinds: list[dict[str, Any]] = [{"kind": kind} for kind in ("vote", "select", "ensemble", "one")]
    kinds.append({"kind": "synthesis", "adapter": trio[0]})

    async def scene() -> list[tuple[Trace, str]]:
        async with answering(url) as answers:
            found = []
            for kind in kinds:
                # The tiny base by itself says nothing but blanks; with others it may speak.
                asked = [*proposers[:2], {"base": True}] if kind["kind"] == "ensemble" else proposers
                recipe = Recipe.model_validate({"name": "r", "layers": [{"proposers": asked}], "aggregator": kind})
                recipes.put("default", "", mixtures.seal("default", recipe), actor="test")
                made, pieces = mixtures.load(("default", "r")), list[str]()
                whole = await answers.answer(made, ASKED, {"max_tokens": 6}, likelihoods=True)
                await answers.answer(made, ASKED, {"max_tokens": 6}, say=pieces.append)
                found.append((whole, "".join(pieces)))
            return found

    with running(create_app(Pool(tiny))) as url:
        vote, selected, ensemble, one, synthesis = asyncio.run(scene())
    for trace, pieces in (vote, selected, ensemble, one, synthesis):
        assert not trace.instead.replace("The router could not be asked", "") or "auto" in trace.instead
        assert trace.text and not [call.reason for call in trace.calls if call.error]
        assert all(call.likelihood is not None and call.likelihood <= 0 for call in trace.calls)
        assert all(call.prompt_tokens > 10 and call.completion_tokens == 6 for call in trace.calls)
        assert pieces in ("", trace.text), "greedy: the stream says what the whole answer said"
    assert selected[0].text == select(selected[0].proposals, prior=1, likelihood=1, agreement=1).text
    assert (len(vote[0].proposals), len(ensemble[0].calls), len(one[0].calls)) == (3, 1, 1)
    assert ensemble[1] == ensemble[0].text and synthesis[1] == synthesis[0].text
    assert synthesis[0].spoken is not None
    assert synthesis[0].spoken.prompt_tokens > synthesis[0].proposals[0].prompt_tokens + 3 * 6
