"""Sentences as vectors, by a pulled embedding model; for routing and for finding what is alike."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import logging

from moatelier.errors import ModelUnavailable
from modalities import catalogue


def embed(texts: Sequence[str], base_id: str | None = None, batch: int = 32) -> NDArray[np.float32]:
    """Vectors of unit length, `[texts, 384]` for the default model, in the order of the texts.

    Args:
        texts: What to embed.
        base_id: Catalogue id of an embedding model; default: that of the settings.
        batch: How many texts are embedded at once.

    Raises:
        NotFound: Unknown id.
        ModelUnavailable: The model is not pulled, no embedding model, or does not load.
        IntegrityError: Its files are not those that were pulled.
    """
    model = _model(base_id)
    if not texts:
        return np.zeros((0, int(model.get_embedding_dimension() or 0)), dtype=np.float32)
    vectors = model.encode(
        list(texts), batch_size=batch, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    )
    return np.asarray(vectors, dtype=np.float32)


def tokens(texts: Sequence[str], base_id: str | None = None) -> int:
    """How many tokens the model reads of these texts, at most its context of each. Raises like `embed`."""
    model = _model(base_id)
    read = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)
    return sum(map(len, read["input_ids"]))


def _model(base_id: str | None) -> SentenceTransformer:
    named = base_id or catalogue.embedding()
    return _load(catalogue.folder(named), named, catalogue.base_digest(named))


@lru_cache(maxsize=2)
def _load(folder: Path, base_id: str, _digest: str) -> SentenceTransformer:
    catalogue.need_kind(base_id, "embedding")
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise ModelUnavailable(
            f"The embedding model does not load: {type(error).__name__}: {error}",
            where=str(folder),
            remedy="Delete the folder and pull the model again.",
        ) from error
