"""Embeddings of the engine over its own wire, with a tiny model, and what is refused."""

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import pytest

from modalities.embedding import embed, tokens
from serving.embeddings import MOST_TEXTS
from serving.pool import Pool, create_app
from serving.upstream import Upstream
from tests.api.running import running
from tests.modalities.test_model_embedding import tiny_embedding as tiny_embedding

TEXTS = ["where is my card", "bananas are yellow", "card"]


def post(body: dict[str, Any]) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Pool("tiny")))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.post("/v1/embeddings", json=body)

    return asyncio.run(send())


def test_both_forms_are_the_models_vectors(tiny_embedding: str) -> None:
    expected = embed(TEXTS, tiny_embedding)
    plain = post({"model": tiny_embedding, "input": TEXTS}).json()
    assert np.allclose([item["embedding"] for item in plain["data"]], expected, atol=1e-6)
    assert [item["index"] for item in plain["data"]] == [0, 1, 2]
    coded = post({"model": tiny_embedding, "input": TEXTS[0], "encoding_format": "base64", "dimensions": 16}).json()
    assert np.allclose(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), expected[0], atol=1e-6)
    assert plain["usage"]["prompt_tokens"] == tokens(TEXTS, tiny_embedding) > len(TEXTS)


def test_the_client_reads_them_back_in_order(tiny_embedding: str) -> None:
    async def ask(url: str) -> list[list[float]]:
        async with Upstream(url) as upstream:
            return await upstream.embeddings(TEXTS, tiny_embedding)

    with running(create_app(Pool("tiny"))) as url:
        assert np.allclose(asyncio.run(ask(url)), embed(TEXTS, tiny_embedding), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": ["a"] * (MOST_TEXTS + 1)}, 400, "input"),
        ({"input": ["a", " "]}, 400, "input[1]"),
        ({"input": ["a", "x" * 100_001]}, 400, "input[1]"),
        ({"input": [1, 2, 3]}, 400, "input[0]"),
        ({"input": [[1, 2], [3]]}, 400, "input[0]"),
        ({"input": None}, 400, None),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"dimensions": 8}, 400, "dimensions"),
        ({"model": "no-such-model"}, 404, "no-such-model"),
        ({"model": "all-minilm-l6-v2"}, 503, None),
    ],
)
def test_what_cannot_be_embedded(tiny_embedding: str, change: dict[str, Any], status: int, param: str | None) -> None:
    answer = post({"model": tiny_embedding, "input": "a", **change})
    assert answer.status_code == status, answer.text
    assert param is None or answer.json()["error"]["param"] == param
    assert answer.json()["error"]["code"] and answer.json()["error"]["message"]
