"""On which tokens of a pass an adapter acts, for methods that switch it on in the middle of a row."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_acting: ContextVar[Tensor | None] = ContextVar("acting", default=None)


@contextmanager
def acting_on(tokens: Tensor | None) -> Iterator[None]:
    """Let adapters act on these tokens only, `[tokens]` of 0 and 1; None is all of them."""
    token = _acting.set(tokens)
    try:
        yield
    finally:
        _acting.reset(token)


def mask(x: Tensor) -> Tensor | None:
    """What to multiply an adapter's part for x `[1, tokens, width]` by, `[1, tokens, 1]`; None is nothing.

    The last layer's feed-forward part gets only the places that predict something, and there the adapter always acts.
    """
    tokens = _acting.get()
    return None if tokens is None or x.shape[1] != len(tokens) else tokens[None, :, None]
