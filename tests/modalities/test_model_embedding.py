"""Embedding with a tiny folder in place of the pack, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from moatelier.errors import ModelUnavailable
from moatelier.settings import settings
from modalities import pull
from modalities.embedding import embed
from tests import sentences
from tests.modalities.packs import catalogue_file


@pytest.fixture
def tiny_embedding(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The catalogue id of a pulled random BERT of width 16."""
    folder = sentences.tiny_embedding(tmp_path, "where is my card bananas are yellow")
    entry = {"id": "tiny-sentences", "kind": "embedding", "convert": "hf_embedding"}
    entry |= {"sources": [{"type": "path", "path": str(folder)}]}
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "more.yaml", entry)))
    settings.cache_clear()
    pull.pull("tiny-sentences")
    return "tiny-sentences"


def test_vectors_have_unit_length_and_keep_the_order(tiny_embedding: str) -> None:
    texts = ["where is my card", "bananas are yellow", "card"]
    vectors = embed(texts, tiny_embedding)
    assert vectors.shape == (3, 16) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(embed(texts[::-1], tiny_embedding)[::-1], vectors, atol=1e-5)
    assert embed([], tiny_embedding).shape == (0, 16)


def test_what_is_no_pulled_embedding_model_is_refused(tiny: str) -> None:
    with pytest.raises(ModelUnavailable, match="is a model for text"):
        embed(["a"], tiny)
    with pytest.raises(ModelUnavailable, match="moatelier models pull all-minilm-l6-v2"):
        embed(["a"])
