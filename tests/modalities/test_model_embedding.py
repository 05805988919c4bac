"""Embedding with a tiny folder in place of the pack, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from moatelier.errors import ModelUnavailable
from moatelier.settings import settings
from modalities import pull
from modalities.embedding import embed
from tests.modalities.packs import catalogue_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "my", "card", "bananas", "are", "yellow"]


@pytest.fixture
def tiny_embedding(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The catalogue id of a pulled random BERT of width 16."""
    plain, folder = tmp_path / "bert", tmp_path / "sentences"
    plain.mkdir()
    BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(plain)
    SentenceTransformer(str(plain)).save_pretrained(str(folder))
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
