"""Whatever the logits, an answer that was not cut off satisfies its schema; `jsonschema` is the judge."""

import json
import random
import re
import string
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from moatelier.errors import InvalidRequest, ModelUnavailable
from modalities.text.template import answer_text
from serving.constrained import KEPT, Constraint, Grammars, check
from serving.schemas import ANY_OBJECT, MAX_SCHEMA_CHARS, closed, schema_text
from tests.fakes import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
START, STOP = 1, 2
VOCABULARY = len(TOKENIZER)
GRAMMARS = Grammars(TOKENIZER, [STOP])
PATIENCE = 60
"""Steps of random logits, after which they begin to press for an end."""


def pressing() -> torch.Tensor:
    """Logits that close what is open, and open nothing."""
    pressed = torch.zeros(VOCABULARY)
    for letters, pull in (
        ('"', 45.0),
        ("}]", 40.0),
        (",", 30.0),
        (string.digits, 15.0),
        ("[{", -40.0),
        (" \n\t.eE", -60.0),
    ):
        for letter in letters:
            pressed[TOKENIZER.convert_tokens_to_ids(TOKENIZER.tokenize(letter))] = pull
    pressed[STOP] = 50.0
    return pressed


PRESSING = pressing()


def write(constraint: Constraint, seed: int, loud: int = START, steps: int = 500) -> list[int]:
    """The tokens of an answer from random logits, in which one token is by far the likeliest at first."""
    randomness, tokens = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        logits = 3 * torch.randn(VOCABULARY, generator=randomness)
        if step < PATIENCE:
            logits[loud] += 20
        else:
            logits += PRESSING
        tokens.append(int(constraint.mask(logits).argmax()))
        constraint.accept(tokens[-1])
        if constraint.ended or constraint.error:
            break
    assert constraint.error is None
    assert constraint.ended, f"no end of {answer_text(TOKENIZER, tokens)}"
    return tokens


def admits(schema: Any, text: str) -> bool:
    """The grammar lets exactly this be said, with no matter what tokens, and then stop."""
    constraint = GRAMMARS.constraint(json.dumps(schema))
    for token in TOKENIZER(text, add_special_tokens=False).input_ids:
        if constraint.mask(torch.zeros(VOCABULARY))[token] != 0:
            return False
        constraint.accept(token)
    return bool(constraint.mask(torch.zeros(VOCABULARY))[STOP] == 0)


texts = st.text(st.characters(codec="utf-8", exclude_characters="".join(map(chr, range(32))) + "\x7f"), max_size=5)
keys = st.sampled_from(["a", "b", "name", 'q"\\', "é", "a b"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)


def bounded(kind: str, low: str, high: str, least: int, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of a type with a lower and an upper bound, or none."""
    pairs = st.tuples(st.integers(least, most), st.integers(least, most)).map(sorted)
    return st.builds(
        lambda pair, keep: {"type": kind} | dict(list(zip((low, high), pair, strict=True))[slice(*keep)]),
        pairs,
        st.sampled_from([(0, 0), (0, 1), (1, 2), (0, 2)]),
    )


leaves = st.one_of(
    st.sampled_from([{}, {"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}, {"type": "number"}]),
    bounded("integer", "minimum", "maximum", -120, 120),
    bounded("number", "minimum", "maximum", -12, 12),
    bounded("string", "minLength", "maxLength", 0, 6),
    st.integers(2, 9).map(lambda n: {"type": "integer", "multipleOf": n}),
    st.sampled_from(["date", "uuid", "ipv4", "date-time"]).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(["^[a-c]{2,4}$", "^.{0,3}x", '^[^"\\\\]{1,3}$', "^(ab|cd)+$", "^.?\\d{3}"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.lists(values, min_size=1, max_size=3).map(lambda choices: {"enum": choices}),
    values.map(lambda value: {"const": value}),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(keys, inner, max_size=4))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = [name for name in properties if draw(st.booleans())]
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.booleans() | inner)
    if draw(st.booleans()) and len(schema["required"]) == len(properties):
        schema["minProperties"] = draw(st.integers(0, len(properties) + 1))
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    fewest = draw(st.integers(0, 3))
    return schema | {"minItems": fewest, "maxItems": fewest + draw(st.integers(0, 2))}


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.tuples(objects(inner), objects(inner)).map(lambda parts: {"allOf": list(parts)}),
        inner.map(lambda part: {"$defs": {"x": part}, "type": "array", "items": {"$ref": "#/$defs/x"}, "maxItems": 2}),
    ),
    max_leaves=6,
)


def compiled(schema: Any) -> Constraint:
    """Its constraint; schemas that are refused, such as those that nothing satisfies, are another test's matter."""
    try:
        return GRAMMARS.constraint(schema_text(schema))
    except InvalidRequest:
        assume(False)
        raise


def satisfies(schema: Any, tokens: list[int]) -> None:
    text = answer_text(TOKENIZER, tokens)
    Draft202012Validator(schema).validate(json.loads(text))


@settings(max_examples=150, deadline=None)
@given(schema=schemas, seed=st.integers(0, 2**31), loud=st.integers(0, VOCABULARY - 1))
def test_any_answer_satisfies_its_schema(schema: Any, seed: int, loud: int) -> None:
    satisfies(schema, write(compiled(schema), seed, loud))


LINKED = {
    "type": "object",
    "properties": {"label": {"enum": ["x", "y"]}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["label", "next"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("schema", [LINKED, json.loads(ANY_OBJECT), {}, {"type": "array", "minItems": 3}])
@pytest.mark.parametrize("seed", range(5))
def test_recursive_and_free_schemas(schema: Any, seed: int) -> None:
    satisfies(schema, write(compiled(schema), seed))


@pytest.mark.parametrize("worst", [float("nan"), float("-inf"), float("inf"), 0.0, -3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_no_numbers_cannot_break_out(worst: float, dtype: torch.dtype) -> None:
    """Not even when all that is allowed is at -inf, or all that is forbidden at inf."""
    constraint, said = GRAMMARS.constraint(json.dumps({"const": [True, None]})), []
    while not constraint.ended:
        logits = torch.full((VOCABULARY,), worst, dtype=dtype)
        logits[START] = float("inf")
        said.append(int(constraint.mask(logits).argmax()))
        constraint.accept(said[-1])
    assert json.loads(answer_text(TOKENIZER, said)) == [True, None]


def test_a_stop_token_is_allowed_where_the_schema_is_satisfied_and_only_there() -> None:
    constraint = GRAMMARS.constraint('{"type":"integer"}')
    assert constraint.mask(torch.zeros(VOCABULARY))[STOP] == float("-inf")
    constraint.accept(TOKENIZER.convert_tokens_to_ids("7"))
    assert constraint.mask(torch.zeros(VOCABULARY))[STOP] == 0
    assert not constraint.ended, "more digits may follow"
    constraint.accept(STOP)
    assert constraint.ended
    assert constraint.mask(torch.zeros(VOCABULARY)).isfinite().nonzero().tolist() == [[STOP]]


def test_every_stop_token_counts() -> None:
    constraint = Grammars(TOKENIZER, [STOP, 0]).constraint('{"const":1}')
    assert not constraint.ended
    constraint.accept(TOKENIZER.convert_tokens_to_ids("1"))
    assert constraint.ended, "nothing can follow"
    assert constraint.mask(torch.zeros(VOCABULARY)).isfinite().nonzero().flatten().tolist() == [0, STOP]


def test_rows_of_the_vocabulary_without_a_token_are_forbidden() -> None:
    """Models pad their vocabulary to a round number."""
    masked = GRAMMARS.constraint(ANY_OBJECT).mask(torch.zeros(VOCABULARY + 64))
    assert masked.isfinite().sum() > 0
    assert not masked[VOCABULARY:].isfinite().any()


def test_answers_to_one_schema_do_not_share_their_state() -> None:
    first, second = (GRAMMARS.constraint('{"enum":["a","b"]}') for _ in range(2))
    write(first, 0)
    assert not second.ended
    write(second, 1)


def test_blanks_are_few_and_properties_in_order() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}
    for text in ('{"b":1,"a":2}', '{"b": 1, "a": 2}', '{\n  "b": 1,\n  "a": 2\n}'):
        assert admits(schema, text)
    for text in ('{"a":2,"b":1}', '{"b":  1}', '{"b":\n\n1}', ' {"b":1}', '{"b":1}\n'):
        assert not admits(schema, text)


A = {"type": "object", "properties": {"a": {"type": "integer"}}}
TWO = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"], "minProperties": 3}


@pytest.mark.parametrize(
    ("schema", "text", "fine"),
    [
        (A, '{"a":1,"b":"x"}', True),
        (A, '{"\\u0061":"x"}', False),
        ({"properties": {"x": A}}, '{"x":{"\\u0061":"x"}}', False),
        (A, '{"a":1,"a":2}', False),
        (TWO, '{"a":1,"b":2,"c":3}', True),
        (TWO, '{"a":1,"b":2}', False),
        ({"const": 'a\n\t"\\b'}, '"a\\n\\t\\"\\\\b"', True),
        ({"type": "array", "items": {"const": 1}, "x-guidance": {"item_separator": ";"}}, "[1;1]", False),
        ({"type": "array", "items": {"const": 1}, "x-guidance": {"item_separator": ";"}}, "[1,1]", True),
        ({"type": "string", "pattern": '^[^"]$'}, '"\\""', False),
        ({"type": "string", "pattern": '^[^"]$'}, '"a"', True),
        ({"type": "string", "pattern": "^[^\\\\]$"}, '"\\\\"', False),
        ({"const": {"pattern": "[^a]"}}, '{"pattern":"[^a]"}', True),
        ({"properties": {"pattern": {"pattern": '^[^"]$'}}}, '{"pattern":"\\""}', False),
    ],
)
def test_the_grammar_is_no_wider_than_the_schema(schema: Any, text: str, fine: bool) -> None:
    assert admits(schema, text) == fine


ATOMS = [
    "a",
    "\\d",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\D",
    ".",
    "\\n",
    "\\\\",
    '"',
    "\\/",
    "é",
    "\\.",
    "[ab]",
    '[^"]',
    "[^\\\\]",
]
ATOMS += [
    '[^a"\\\\]',
    "[^\\w]",
    "[^\\s]",
    "[\\W]",
    "[!-~]",
    "[^ -~]",
    "[\\s\\S]",
    "[^\\n]",
    "\\[",
    "[^\\]x]",
    "[^\\x00-\\x1f]",
]
LETTERS = ['\\"', "\\\\", "\\n", "\\t", "a", "b", "7", " ", "/", "é", "[", "]", ".", "^", "~"]


def meant(atom: str) -> str:
    """An atom for Python's `re` that means what it does in a schema: blanks of all alphabets, the rest of ASCII."""
    return f"(?{'u' if atom.lower().count(chr(92) + 's') else 'a'}:{atom})"


@settings(max_examples=150, deadline=None)
@given(atoms=st.lists(st.sampled_from(ATOMS), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_patterns_mean_what_they_mean_elsewhere(atoms: list[str], seed: int) -> None:
    schema = {"type": "string", "pattern": f"^{''.join(atoms)}$"}
    judge, randomness = re.compile("".join(map(meant, atoms))), random.Random(seed)
    said = [f'"{"".join(randomness.choices(LETTERS, k=len(atoms)))}"' for _ in range(20)]
    written = answer_text(TOKENIZER, write(GRAMMARS.constraint(json.dumps(schema)), seed))
    for text in [written, *(text for text in said if admits(schema, text))]:
        assert judge.fullmatch(json.loads(text)), f"{text} does not match {schema['pattern']}"


def test_a_negated_class_still_admits_the_rest() -> None:
    for letter in ("a", "7", " ", "é", "/"):
        assert admits({"type": "string", "pattern": '^[^"\\\\]$'}, f'"{letter}"')


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"properties": 3}, "properties"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"properties": {"a": {"x-guidance": {"lenient": True}, "not": {}}}}, "not"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"$ref": "https://example.com/x.json"}, "example.com"),
        ({"$ref": "#"}, "no answer"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"enum": []}, "empty"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"items": {"type": "object", "required": ["a"], "minProperties": 3}}, "minProperties"),
        ({"const": "a\x01b"}, "control"),
        ({"enum": [{"a\x7f": 1}]}, "control"),
        ({"type": "string", "pattern": "^a\\x01b$"}, "control"),
        ({"type": "string", "pattern": "^[\\u0000-9]$"}, "control"),
        ({"type": "string", "pattern": "\\x{1}"}, "control"),
        ({"type": "string", "pattern": "\\P{L}"}, "control"),
        ({"type": "string", "pattern": "\\pC"}, "control"),
        ({"type": "string", "pattern": "[a[^b]]"}, "classes"),
        ({"type": "string", "pattern": "[^]"}, "classes"),
        ({"type": "string", "pattern": "[a&&b]"}, "classes"),
        ({"patternProperties": {"^[^a]": {}}}, "patternProperties"),
        ({"description": "x" * MAX_SCHEMA_CHARS}, "characters"),
        (nested(200), "recursion"),
        ([], "object"),
        (True, "object"),
    ],
)
def test_what_cannot_be_followed_is_refused_beforehand(schema: Any, says: str) -> None:
    for refuse in (check, GRAMMARS.constraint):
        with pytest.raises(InvalidRequest, match=says) as refused:
            refuse(json.dumps(schema))
        assert refused.value.where == "response_format"
        assert refused.value.remedy


@pytest.mark.parametrize("schema", ["", "{", '{"a":', '"\ud800"', '{"const":"\\ud800"}', "[" * 5000])
def test_what_is_no_json_is_refused(schema: str) -> None:
    with pytest.raises(InvalidRequest):
        check(schema)


@pytest.mark.parametrize("schema", [{"const": float("nan")}, {"const": object()}, {"const": {1, 2}}])
def test_what_cannot_be_json_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest):
        schema_text(schema)


def test_a_schema_keeps_its_order() -> None:
    assert closed(schema_text({"properties": {"b": {}, "a": {}}})) == '{"properties": {"b": {}, "a": {}}}'


def test_a_schema_is_compiled_once_while_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = GRAMMARS.constraint.__globals__["_matcher"]
    monkeypatch.setitem(GRAMMARS.constraint.__globals__, "_matcher", lambda *args: built.append("x") or real(*args))
    grammars = Grammars(TOKENIZER, [STOP])
    for schema in [json.dumps({"const": n}) for n in range(KEPT + 1)]:
        check(schema)
        built.clear()
        grammars.constraint(schema)
        assert len(built) == 1
        built.clear()
        grammars.constraint(schema)
        assert not built
    check('{"const": 0}')
    built.clear()
    grammars.constraint('{"const": 0}')
    assert built, "the cache has no bound"


def test_a_tokenizer_that_cannot_be_read_is_the_models_fault() -> None:
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        Grammars(object(), [STOP]).constraint(ANY_OBJECT)


def test_tokens_are_spelt_in_bytes() -> None:
    pieces = TOKENIZER("é 🦙", add_special_tokens=False).input_ids
    assert b"".join(map(GRAMMARS.spell, pieces)).decode() == "é 🦙"
    assert len(pieces) > 3, "the tokenizer knows these characters by their bytes only"
    assert GRAMMARS.spell(STOP) == b"<|im_end|>"
