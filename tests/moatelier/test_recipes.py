"""Recipes: what may be written, and that everything else is refused with the field and the reason."""

from typing import Any

import pytest
import yaml

from moatelier.contracts import Recipe, read_recipe
from moatelier.errors import InvalidRequest

WHOLE = """
name: desk
summary: everything that can be said
layers:
  - proposers:
      - auto: 3
      - adapter: support-intent
        samples: 5
        temperature: 0.8
        weight: 2
      - base: true
      - upstream: big
        model: some-model
        max_tokens: 100
      - recipe: moa/other
    quorum: 3
    deadline_s: 30
    patience: 0.5
    exit_at: 0.8
  - proposers: [{adapter: writer}]
    residual: true
aggregator: {kind: synthesis, adapter: writer, reference_chars: 500}
gate: {one_below: 1.2, few_below: 2.5, few: 3}
"""


def recipe(aggregator: Any = "vote", **layer: Any) -> dict[str, Any]:
    """A small recipe with changes to its one layer."""
    kind = {"kind": aggregator} if isinstance(aggregator, str) else aggregator
    return {"name": "r", "layers": [{"proposers": [{"adapter": "a"}, {"base": True}]} | layer], "aggregator": kind}


def told(text: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_recipe(text)
    return str(caught.value)


def test_everything_that_can_be_said_is_read() -> None:
    read = read_recipe(WHOLE)
    first, second = read.layers
    assert [proposer.kinds[0] for proposer in first.proposers] == ["auto", "adapter", "base", "upstream", "recipe"]
    assert (first.count, second.count, second.residual) == (3 + 5 + 1 + 1 + 1, 1, True)
    assert read.others == (("other", ""),) and read.routed and len(read.voices) == 7


def test_a_digest_follows_the_meaning_not_the_spelling() -> None:
    one, same = read_recipe(WHOLE), read_recipe("# a comment\n" + yaml.safe_dump(yaml.safe_load(WHOLE)))
    assert one.digest == same.digest != read_recipe(WHOLE.replace("0.8", "0.7")).digest


def test_a_recipe_is_read_back_from_what_is_kept() -> None:
    read = read_recipe(WHOLE)
    assert Recipe.model_validate(read.model_dump(mode="json")) == read


@pytest.mark.parametrize(
    ("aggregator", "routed"),
    [("one", True), ("vote", True), ({"kind": "vote", "prior": 0}, False), ("ensemble", False)],
)
def test_the_router_is_asked_only_where_it_counts(aggregator: Any, routed: bool) -> None:
    assert Recipe.model_validate(recipe(aggregator)).routed is routed


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (recipe(proposers=[]), ["layers.0.proposers"]),
        (recipe(proposers=[{}]), ["exactly one of adapter, auto, base, upstream, recipe", "none"]),
        (recipe(proposers=[{"adapter": "a", "base": True}]), ["adapter and base"]),
        (recipe(proposers=[{"upstream": "big"}]), ["`upstream` and `model` go together"]),
        (recipe(proposers=[{"base": True, "model": "m"}]), ["go together"]),
        (recipe(proposers=[{"adapter": "a", "samples": 3}]), ["temperature"]),
        (recipe(proposers=[{"adapter": "a", "samples": 17, "temperature": 1}]), ["samples"]),
        (recipe(proposers=[{"auto": 17}]), ["auto"]),
        (recipe(proposers=[{"recipe": "Not a name"}]), ["recipe"]),
        (recipe(quorum=3), ["quorum is 3, of 2"]),
        (recipe(deadline_s=0), ["deadline_s"]),
        (recipe(exit_at=1.5), ["exit_at"]),
        (recipe(residual=True), ["no layer before"]),
        (recipe("guess"), ["aggregator"]),
        (recipe({"kind": "synthesis"}), ["exactly one of adapter, base, upstream", "none"]),
        (recipe("ensemble", proposers=[{"base": True}]), ["2 to 16"]),
        (recipe("ensemble", proposers=[{"base": True}, {"upstream": "u", "model": "m"}]), ["embedded engine"]),
        (recipe("ensemble", proposers=[{"base": True}, {"adapter": "a", "temperature": 1}]), ["own sampling"]),
        (recipe(proposers=[{"adapter": "a", "samples": 16, "temperature": 1}] * 5), ["80 calls", "64"]),
        (recipe() | {"name": "moa/r"}, ["name"]),
        (recipe() | {"name": ""}, ["name"]),
        (recipe() | {"colour": "red"}, ["colour"]),
        (recipe() | {"layers": []}, ["layers"]),
    ],
)
def test_what_cannot_be_used_is_named(spoilt: dict[str, Any], words: list[str]) -> None:
    message = told(yaml.safe_dump(spoilt))
    assert all(word in message for word in words) and "docs/guide.md" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is nothing"),
        ("- a", "is a list"),
        ("name: [", "line 1"),
        ("name: !!python/object:os.system {}", "not YAML"),
        ("a: \x00", "not YAML"),
        ("x" * 64_001, "64000 are read"),
        ("[" * 5000, "YAML"),
    ],
)
def test_what_is_no_recipe_at_all(text: str, words: str) -> None:
    assert words in told(text) or "nested too deeply" in told(text)
