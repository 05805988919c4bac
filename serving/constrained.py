"""Answers that satisfy a JSON schema: the tokens that could not lead to one are forbidden, a step at a time.

The grammar is llguidance's; `serving.schemas` keeps from it what it would not hold an answer to.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.hf import from_tokenizer

from moatelier.errors import InvalidRequest, ModelUnavailable
from serving.schemas import closed, refused

KEPT = 32
"""Compiled schemas that are kept for their next use."""

_OPTIONS: Mapping[str, Any] = {
    "lenient": False,  # a keyword that is not supported is an error, not a wish
    # A blank, or a line break with its indent: with more freedom a weak model writes nothing else until it is cut off.
    "whitespace_pattern": r" |\n[ \t]{0,16}",
    "json_allowed_escapes": 'nrbtf\\"',  # see serving.schemas
}
_LIMITS = LLParserLimits(verbose_errors=False)


def check(schema: str) -> None:
    """Refuse a schema that no answer could be held to, without any model's tokenizer. Cheap when it comes again.

    Raises:
        InvalidRequest: No schema, a faulty or unsatisfiable one, or one with keywords that are not supported.
    """
    _grammar(schema)


class Grammars:
    """Compiles schemas for one tokenizer and keeps those last used. Any thread may ask.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        stop_ids: Tokens that end an answer; allowed where the schema is satisfied, and only there.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, tuple(stop_ids)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def constraint(self, schema: str) -> "Constraint":
        """A constraint for one answer, at its beginning.

        Raises:
            InvalidRequest: As for `check`.
            ModelUnavailable: As for `vocabulary`.
        """
        with self._lock:
            matcher = self._compiled.pop(schema, None) or _matcher(self.vocabulary, _grammar(schema))
            self._compiled[schema] = matcher
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return Constraint(matcher.deep_copy(), self._stop_ids)

    def spell(self, token: int) -> bytes:
        """The bytes a token stands for, which may be a part of a character; a special token's are its name."""
        return self.vocabulary.decode_bytes([token])

    @cached_property
    def vocabulary(self) -> LLTokenizer:
        """The tokenizer as the library sees it; takes a fraction of a second at its first use.

        Raises:
            ModelUnavailable: The library cannot read the tokenizer.
        """
        try:
            return from_tokenizer(self._tokenizer, eos_token=list(self._stop_ids))
        except ValueError as error:
            what = f"This base's tokenizer cannot be used for schemas and log probabilities: {error}"
            raise ModelUnavailable(what, where="model", remedy="Leave them out, or use another base.") from error


class Constraint:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: Sequence[int]) -> None:
        self._matcher, self._stop_ids = matcher, list(stop_ids)
        self._stopped = False
        self.error: InvalidRequest | None = None
        """The grammar was given up in the middle: it leads nowhere, or needs more than its limits. Nothing but a stop
        token is allowed then, and what was said so far does not satisfy the schema."""

    @property
    def ended(self) -> bool:
        """The answer satisfies the schema and nothing can follow but a stop token, or one has come."""
        return self.error is None and (self._stopped or self._matcher.is_stopped())

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[vocabulary]` with those of forbidden tokens at -inf; the others are finite whatever they were."""
        allowed = self._allowed(logits.shape[-1]).to(logits.device)
        lowest = torch.finfo(logits.dtype).min
        return torch.where(allowed, logits.nan_to_num(nan=lowest, neginf=lowest), float("-inf"))

    def accept(self, token: int) -> None:
        """Take the chosen token, one that `mask` allowed."""
        if token in self._stop_ids:
            self._stopped = True
        elif not self._matcher.consume_token(token):
            self._give_up()

    def _allowed(self, size: int) -> torch.Tensor:
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            self._give_up()
        # The model's vocabulary may be longer than the tokenizer's, padded to a round number.
        allowed = torch.zeros(size, dtype=torch.bool)
        if self.error or self._stopped:
            allowed[self._stop_ids] = True
        else:
            known = np.unpackbits(bits, bitorder="little")[:size]
            allowed[: len(known)] = torch.from_numpy(known.view(np.bool_))
        return allowed

    def _give_up(self) -> None:
        if self.error is None:
            self.error = refused(f"the answer came to a place with no way on: {_reason(self._matcher.get_error())}")


def _matcher(vocabulary: LLTokenizer, grammar: str) -> LLMatcher:
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()  # a schema that refers to nothing but itself fails only here
    if matcher.is_error():
        raise refused(_reason(matcher.get_error()))
    return matcher


@lru_cache(maxsize=KEPT)
def _grammar(schema: str) -> str:
    """The library's grammar for a schema, tried out on single bytes, which says what a tokenizer would have said."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(closed(schema), overrides=dict(_OPTIONS))  # type: ignore[arg-type]
    except ValueError as error:
        raise refused(str(error)) from error
    _matcher(_bytes(), grammar)
    return grammar


class _Bytes:
    """A vocabulary of the 256 bytes and an end."""

    eos_token_id, bos_token_id = 256, None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def _bytes() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _reason(told: str) -> str:
    """The library's message without its state; its code for a dead end in words."""
    words = " ".join(re.sub(r"<(state>.*|[^>]*>)", "", told, flags=re.DOTALL).split())
    return words.replace("NoExtensionBias", "no answer satisfies it")[:300]
