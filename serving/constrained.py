"""Answers that satisfy a JSON schema: the tokens that could not lead to one are forbidden, a step at a time.

The grammar is llguidance's. What it would accept although the schema forbids it is closed here: keys that are a second
spelling of another key, counts of keys that repeats would satisfy, and options that a schema could smuggle in.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.hf import from_tokenizer

from moatelier.errors import InvalidRequest

ANY_OBJECT = '{"type":"object"}'
"""The schema of a response format `json_object`."""
MAX_SCHEMA_CHARS = 131_072
"""The longest schema; the longest of them takes about half a second to compile."""
KEPT = 32
"""Compiled schemas that are kept for their next use."""

_OPTIONS: Mapping[str, Any] = {
    "lenient": False,  # a keyword that is not supported is an error, not a wish
    "coerce_one_of": False,
    # A blank, or a line break with its indent: with more freedom a weak model writes nothing else until it is cut off.
    "whitespace_pattern": r" |\n[ \t]{0,16}",
    # No \uXXXX: a key "\u0061" would be one more "a", past the schema of the first.
    "json_allowed_escapes": 'nrbtf\\"',
}
_LIMITS = LLParserLimits(verbose_errors=False)
_REMEDY = "Simplify the schema; the guide lists what is supported."


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as `Sampling` carries it. Its order is kept, since the answer's properties come in that order.

    Raises:
        InvalidRequest: It is not JSON.
    """
    try:
        return json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(f"it is not JSON: {error}") from error


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
        """The tokenizer as the library sees it; takes a fraction of a second at its first use."""
        return from_tokenizer(self._tokenizer, eos_token=list(self._stop_ids))


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
            self.error = _refused(f"the answer came to a place with no way on: {_reason(self._matcher.get_error())}")


def _matcher(vocabulary: LLTokenizer, grammar: str) -> LLMatcher:
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()  # a schema that refers to nothing but itself fails only here
    if matcher.is_error():
        raise _refused(_reason(matcher.get_error()))
    return matcher


@lru_cache(maxsize=KEPT)
def _grammar(schema: str) -> str:
    """The library's grammar for a schema, tried out on single bytes, which says what a tokenizer would have said."""
    if len(schema) > MAX_SCHEMA_CHARS:
        raise _refused(f"it has {len(schema)} characters, more than {MAX_SCHEMA_CHARS}")
    try:
        tree = json.loads(schema)
        if not isinstance(tree, dict):
            raise _refused("it is not a JSON object")
        tree.pop("x-guidance", None)  # would change the options, with them what is valid
        _check_counts(tree)
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(tree), overrides=dict(_OPTIONS))  # type: ignore[arg-type]
    except (ValueError, RecursionError) as error:
        raise _refused(str(error)) from error
    _matcher(_bytes(), grammar)
    return grammar


def _check_counts(schema: dict[str, Any]) -> None:
    """`minProperties` must be out of reach of repeats: the grammar lets a key that has no schema of its own repeat."""
    for part in _objects(schema):
        least, required = part.get("minProperties"), part.get("required")
        named = len(set(map(str, required))) if isinstance(required, list) else 0
        if isinstance(least, int) and least > named + 1:
            raise _refused(f"minProperties of {least} is supported with at least {least - 1} required properties")


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(tree, dict):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _objects(part)


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
    """The library's message without its state."""
    return " ".join(told.split("<state>")[0].split())[:300]


def _refused(reason: str) -> InvalidRequest:
    what = f"The JSON schema cannot be followed: {reason.rstrip('.')}."
    return InvalidRequest(what, where="response_format", remedy=_REMEDY)
