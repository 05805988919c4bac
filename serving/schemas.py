r"""JSON schemas before they become grammars: what llguidance would take but not hold an answer to is closed or refused.

Found by comparing what the grammar admits with what the schema says (tests/serving/test_constrained.py):
- Keys without a schema of their own may repeat, so repeats would satisfy `minProperties`.
- "\u0061" passes as a key beside "a", so the grammar is compiled without such escapes; then a control character, for
  which JSON has no other spelling, is left out of constants and patterns as if it were not there.
- `[^"]` admits `\"`: a class with all control characters in it is taken to hold the escaped characters as well.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from moatelier.errors import InvalidRequest

ANY_OBJECT = '{"type":"object"}'
"""The schema of a response format `json_object`."""
MAX_SCHEMA_CHARS = 131_072
"""The longest schema; such a one takes about half a second to compile."""

_MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose object's keys are names."""
_DATA = ("const", "enum", "default", "examples")
"""Keywords whose values are no schemas."""
_BARE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_PIECE = re.compile(r"\\[pP](?:\{[^}]*\}|.)|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|\[\^?\]?|&&|--|~~|.", re.DOTALL)
_CONTROL = re.compile(r"\\(x([01].|7[fF])|u00([01].|7[fF])|[xu]$|[0cv]|P|p(C|\{C[a-z]?\}|\{(Other|Control|Cntrl)))")
_ALL_CONTROLS = r"\x00-\x1f\x7f"


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as `Sampling` carries it. Its order is kept, since the answer's properties come in that order.

    Raises:
        InvalidRequest: It is not JSON.
    """
    try:
        return json.dumps(schema, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise refused(f"it is not JSON: {error}") from error


def closed(schema: str) -> str:
    """A schema for the library whose grammar admits only what this schema does, if perhaps not all of it.

    Raises:
        InvalidRequest: No schema, or there is none such.
    """
    if len(schema) > MAX_SCHEMA_CHARS:
        raise refused(f"it has {len(schema)} characters, more than {MAX_SCHEMA_CHARS}")
    try:
        tree = json.loads(schema)
        if not isinstance(tree, dict):
            raise refused("it is not a JSON object")
        tree.pop("x-guidance", None)  # would change the library's options, with them what is valid
        for text in _strings(tree):
            if _BARE.search(text):
                raise refused(f"control characters, as in {text[:40]!r}, are not supported")
        return json.dumps(_closed(tree))
    except (ValueError, RecursionError) as error:
        raise refused(str(error)) from error


def refused(reason: str) -> InvalidRequest:
    """The error for a schema that no answer can be held to."""
    what = f"The JSON schema cannot be followed: {reason.rstrip('.')}."
    return InvalidRequest(what, where="response_format", remedy="Simplify it; the guide lists what is supported.")


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    _check_counts(schema)
    return {key: _value(key, value) for key, value in schema.items()}


def _value(key: str, value: Any) -> Any:
    if key in _DATA:
        return value
    if key == "pattern" and isinstance(value, str):
        return _pattern(value)
    if key in _MAPS and isinstance(value, dict):
        return {name: _closed(part) for name, part in value.items()}
    if key == "patternProperties" and isinstance(value, dict):
        for pattern in value:
            if _pattern(pattern) != pattern:  # a narrower one would leave the keys between to additionalProperties
                raise refused(f"patternProperties with a negated class, as in {pattern[:40]!r}, are not supported")
        return {pattern: _closed(part) for pattern, part in value.items()}
    return _closed(value)


def _check_counts(schema: dict[str, Any]) -> None:
    least, required = schema.get("minProperties"), schema.get("required")
    named = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > named + 1:
        raise refused(f"minProperties of {least} is supported with at least {least - 1} required properties")


def _pattern(pattern: str) -> str:
    """The pattern with control characters taken out of its negated classes, refused where it names them otherwise."""
    pieces, kind = [], ""  # the bracket of the class we are in
    for piece in _PIECE.findall(pattern):
        if piece[0] == "[" and (kind or piece[-1] == "]") or kind and piece in ("&&", "--", "~~"):
            raise refused(f"classes within classes and empty classes, as in {pattern[:40]!r}, are not supported")
        if kind != "[^" and _CONTROL.match(piece):
            raise refused(f"control characters and \\P, as in {pattern[:40]!r}, are not supported")
        if piece[0] == "[":
            kind = piece
        elif piece == "]":
            kind = ""
        pieces.append(piece + _ALL_CONTROLS if piece == "[^" else piece)
    return "".join(pieces)


def _strings(tree: Any) -> Iterator[str]:
    """All strings and keys in a JSON value."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        yield from tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _strings(part)
