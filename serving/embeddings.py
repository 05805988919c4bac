"""`/v1/embeddings` of the engine: texts to vectors by a pulled embedding model, in the OpenAI dialect.

The model is loaded at its first use, on a thread of its own: a text to be routed does not wait for the answers that
are being generated, and those do not wait for it.
"""

import asyncio
import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from moatelier.errors import InvalidRequest

MOST_TEXTS = 2048
LONGEST_TEXT = 100_000
"""In characters; the model itself reads fewer."""


class EmbeddingRequest(BaseModel):
    """The body of a request for embeddings. The `openai` client asks for base64 unless told otherwise."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """The texts in order.

        Raises:
            InvalidRequest: None, too many, an empty one, or tokens instead of text; `where` names it.
        """
        given = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(given) <= MOST_TEXTS:
            remedy = f"Send 1 to {MOST_TEXTS} texts."
            raise InvalidRequest(f"{len(given)} texts cannot be embedded at once.", where="input", remedy=remedy)
        for place, text in enumerate(given):
            where = f"input[{place}]"
            if not isinstance(text, str):
                raise InvalidRequest("Only texts can be embedded, no tokens.", where=where, remedy="Send a string.")
            if not text.strip() or len(text) > LONGEST_TEXT:
                what = f"A text of {len(text)} characters cannot be embedded." if text.strip() else "The text is empty."
                raise InvalidRequest(what, where=where, remedy=f"Send 1 to {LONGEST_TEXT} characters.")
        return given


class Embedder:
    """Embeds on one thread, one request after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")

    async def answer(self, request: EmbeddingRequest) -> dict[str, Any]:
        """The body of the answer.

        Raises:
            InvalidRequest: Texts or dimensions that cannot be had.
            NotFound: Unknown model.
            ModelUnavailable: The model is not pulled, or no embedding model.
        """
        texts = request.texts()
        vectors, tokens = await asyncio.get_running_loop().run_in_executor(self._thread, _embed, texts, request.model)
        if request.dimensions not in (None, vectors.shape[1]):
            what = f"This model's vectors have {vectors.shape[1]} numbers."
            raise InvalidRequest(what, where="dimensions", remedy="Leave it out.")
        return body(vectors, request.model, request.encoding_format, tokens)


def _embed(texts: Sequence[str], model: str) -> tuple[NDArray[np.float32], int]:
    # By its dotted path when used: importing it takes seconds, and most engines are never asked.
    embedding = import_module("modalities.embedding")
    return embedding.embed(texts, model), embedding.tokens(texts, model)


def body(vectors: NDArray[np.float32], model: str, form: Literal["float", "base64"], tokens: int) -> dict[str, Any]:
    """Vectors as the dialect answers them; base64 is of little-endian float32."""

    def encoded(vector: NDArray[np.float32]) -> list[float] | str:
        return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()

    data = [{"object": "embedding", "index": place, "embedding": encoded(v)} for place, v in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
