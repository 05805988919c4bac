"""What a recipe names is there, is of this base and does not lead back to it, when it is added and when it is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Recipe, read_recipe
from moatelier.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from moatelier.settings import settings
from serving import mixtures
from store import adapters, db, recipes
from store.tables import AdapterRow, RecipeRow
from tests.api.conftest import make_adapter


def recipe(*proposers: dict[str, Any], name: str = "desk", aggregator: Any = None) -> Recipe:
    body = {"name": name, "layers": [{"proposers": list(proposers)}], "aggregator": aggregator or {"kind": "vote"}}
    return Recipe.model_validate(body)


def add(made: Recipe) -> recipes.StoredRecipe:
    return recipes.put("default", made.model_dump_json(), mixtures.seal("default", made), actor="test")


def asks(other: str, name: str = "desk") -> Recipe:
    return recipe({"recipe": other}, {"base": True}, name=name)


def test_names_become_digests_and_an_alias_may_move(home: Path) -> None:
    first, second = make_adapter(seed=1), make_adapter(seed=2)
    adapters.set_alias("default", "support", first.digest, fence=1, actor="test")
    writer = {"kind": "synthesis", "adapter": "support"}
    stored = add(recipe({"adapter": "support"}, {"adapter": second.model_id}, {"base": True}, aggregator=writer))
    adapters.set_alias("default", "support", second.digest, fence=2, actor="test")
    found = mixtures.load(("default", "desk"))
    assert [proposer.adapter for proposer in found.recipe.layers[0].proposers] == [first.digest, second.digest, None]
    assert found.recipe.aggregator.adapter == first.digest  # type: ignore[union-attr]
    assert set(found.targets) == {first.digest, second.digest, settings().base}
    assert found.targets[first.digest].model == first.model_id and found.stored == stored
    assert mixtures.seal("default", stored.sealed) == stored.sealed, "what is sealed stays as it is"


def test_what_does_not_exist_is_named(home: Path) -> None:
    make_adapter()
    for proposer, words in (
        ({"adapter": "suport"}, "no such adapter.*suport"),
        ({"upstream": "big", "model": "m"}, "No upstream.*big.*names: none"),
        ({"recipe": "moa/other"}, "no such recipe.*moa/other"),
    ):
        with pytest.raises(NotFound, match=words):
            mixtures.seal("default", recipe(proposer))
    with pytest.raises(NotFound, match="nobody"):
        mixtures.seal("default", recipe({"base": True}, aggregator={"kind": "synthesis", "adapter": "nobody"}))


def test_another_projects_adapter_does_not_exist(home: Path) -> None:
    record = make_adapter(project="other")
    with pytest.raises(NotFound):
        mixtures.seal("default", recipe({"adapter": record.digest}))


def test_an_adapter_of_another_base_is_refused_when_added_and_when_asked(home: Path) -> None:
    record = make_adapter()
    add(recipe({"adapter": record.digest}))
    with db.session() as opened:
        opened.get_one(AdapterRow, ("default", record.digest)).base = "another-base"
    with pytest.raises(InvalidRequest, match="tuned on another-base"):
        mixtures.seal("default", recipe({"adapter": record.digest}, name="new"))
    with pytest.raises(InvalidRequest, match="tuned on another-base"):
        mixtures.load(("default", "desk"))


def test_an_upstream_that_is_no_longer_configured_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_UPSTREAMS", json.dumps({"big": {"url": "http://127.0.0.1:9"}}))
    settings.cache_clear()
    add(recipe({"upstream": "big", "model": "m"}))
    assert mixtures.load(("default", "desk")).targets.keys() == {settings().base}
    monkeypatch.delenv("MOATELIER_UPSTREAMS")
    settings.cache_clear()
    with pytest.raises(NotFound, match="No upstream.*big"):
        mixtures.load(("default", "desk"))


def test_a_recipe_that_asks_itself_is_refused(home: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"asks itself.*moa/desk -> moa/desk"):
        mixtures.seal("default", asks("desk"))
    add(recipe({"base": True}))
    with pytest.raises(InvalidRequest, match="asks itself"):
        mixtures.seal("default", asks("moa/desk"))


def test_a_recipe_that_asks_itself_through_others_is_refused(home: Path) -> None:
    add(recipe({"base": True}, name="a"))
    add(asks("a", name="b"))
    add(asks("b", name="c"))
    with pytest.raises(InvalidRequest, match=r"moa/a -> moa/c -> moa/b -> moa/a"):
        mixtures.seal("default", asks("c", name="a"))


def test_a_loop_that_got_into_the_store_is_refused_when_asked(home: Path) -> None:
    """As when two people add two recipes at the same moment."""
    add(recipe({"base": True}, name="a"))
    add(asks("a", name="b"))
    looping = recipes.get("default", "a").sealed.model_copy(update={"layers": asks("b", name="a").layers})
    recipes.put("default", "", mixtures._sealed_all("default", looping), actor="test")
    for name in ("a", "b"):
        with pytest.raises((InvalidRequest, Conflict)):
            mixtures.load(("default", name))


def test_another_recipe_is_asked_as_it_was_when_it_was_named(home: Path) -> None:
    inner = add(recipe({"base": True}, name="inner"))
    add(asks("inner"))
    assert mixtures.load(("default", "desk")).others[f"inner@{inner.digest}"].stored == inner
    add(recipe({"base": True}, {"base": True}, name="inner"))
    with pytest.raises(Conflict, match="changed since.*moa/inner"):
        mixtures.load(("default", "desk"))


def test_a_recipe_that_was_changed_in_the_store_is_refused(home: Path) -> None:
    add(recipe({"base": True}))
    with db.session() as opened:
        row = opened.get_one(RecipeRow, ("default", "desk"))
        row.sealed = row.sealed | {"summary": "better"}
    with pytest.raises(IntegrityError, match="not what its digest says"):
        mixtures.load(("default", "desk"))


def test_only_a_live_one_may_answer(home: Path) -> None:
    stored = add(read_recipe("name: desk\nlayers: [{proposers: [{base: true}]}]\naggregator: {kind: vote}"))
    with pytest.raises(Conflict, match="draft.*not been evaluated.*moa/desk.*moatelier moa evaluate desk"):
        mixtures.load(("default", stored.name)).need_live()
    recipes.disable("default", "desk", "People did not like it.", actor="test")
    with pytest.raises(Conflict, match="disabled.*People did not like it"):
        mixtures.load(("default", stored.name)).need_live()
