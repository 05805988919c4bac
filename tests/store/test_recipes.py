"""Recipes in the store: a state that only a signed decision about just this content can make live."""

from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Recipe
from moatelier.errors import Conflict, IntegrityError, NotFound
from store import audit, db, recipes, records
from store.tables import RecordRow
from tests.deciding import Decision


def sealed(name: str = "desk", **layer: Any) -> Recipe:
    layers = [{"proposers": [{"adapter": "a" * 64}, {"base": True}], **layer}]
    return Recipe.model_validate({"name": name, "layers": layers, "aggregator": {"kind": "vote"}})


def decide(recipe: Recipe, key: str, live: bool = True, project: str = "p") -> str:
    records.sign(project, "mixture_decision", recipe.digest, key, Decision(live=live, reason="because"))
    return key


def test_a_new_recipe_is_a_draft_and_the_same_again_changes_nothing(store: Path) -> None:
    kept = recipes.put("p", "name: desk", sealed(), actor="k")
    assert (kept.state, kept.record, kept.digest, kept.sealed) == ("draft", None, sealed().digest, sealed())
    recipes.settle("p", "desk", record=decide(sealed(), "t-1"), actor="t-1")
    again = recipes.put("p", "name: desk # a comment", sealed(), actor="k")
    assert (again.state, again.source, again.created_at) == ("live", "name: desk", kept.created_at)


def test_a_decision_makes_it_live_and_another_disables_it(store: Path) -> None:
    recipes.put("p", "", sealed(), actor="k")
    live = recipes.settle("p", "desk", record=decide(sealed(), "t-1"), actor="t-1")
    assert (live.state, live.record, live.reason) == ("live", "t-1", "because")
    assert recipes.settle("p", "desk", record="t-1", actor="t-1") == live, "the same decision again changes nothing"
    off = recipes.settle("p", "desk", record=decide(sealed(), "t-2", live=False), actor="t-2")
    assert (off.state, off.record) == ("disabled", "t-2")
    lines = [(line.action, line.subject) for line in audit.read("p")]
    assert lines == [("recipe.draft", "desk"), ("recipe.live", "desk"), ("recipe.disabled", "desk")]


def test_a_decision_that_comes_late_does_not_undo_a_later_one(store: Path) -> None:
    """An evaluation killed between its signature and the state goes on after another one has stopped the recipe."""
    recipes.put("p", "", sealed(), actor="k")
    late = decide(sealed(), "t-1")
    recipes.settle("p", "desk", record=decide(sealed(), "t-2", live=False), actor="t-2")
    assert recipes.settle("p", "desk", record=late, actor="t-1").state == "disabled"
    assert recipes.get("p", "desk").record == "t-2"


def test_other_content_is_a_draft_again_and_old_decisions_are_not_about_it(store: Path) -> None:
    recipes.put("p", "", sealed(), actor="k")
    recipes.settle("p", "desk", record=decide(sealed(), "t-1"), actor="t-1")
    changed = recipes.put("p", "", sealed(patience=2.0), actor="k")
    assert (changed.state, changed.record) == ("draft", None)
    with pytest.raises(Conflict, match="changed after this decision"):
        recipes.settle("p", "desk", record="t-1", actor="t-1")
    assert recipes.get("p", "desk").state == "draft"


def test_a_disabled_recipe_comes_back_by_a_new_decision_only(store: Path) -> None:
    recipes.put("p", "", sealed(), actor="k")
    recipes.settle("p", "desk", record=decide(sealed(), "t-1"), actor="t-1")
    off = recipes.disable("p", "moa/desk", "people do not like it", actor="feedback")
    assert (off.state, off.reason, off.record) == ("disabled", "people do not like it", "t-1")
    assert recipes.settle("p", "desk", record="t-1", actor="t-1").state == "disabled"
    assert recipes.settle("p", "desk", record=decide(sealed(), "t-2"), actor="t-2").state == "live"
    with pytest.raises(Conflict, match="changed meanwhile"):
        recipes.disable("p", "desk", "late", actor="feedback", digest="0" * 64)


def test_a_forged_decision_changes_nothing(store: Path) -> None:
    recipes.put("p", "", sealed(), actor="k")
    decide(sealed(), "t-1", live=False)
    with db.session() as opened:
        opened.get_one(RecordRow, ("p", "mixture_decision", "t-1")).body = {"live": True}
    with pytest.raises(IntegrityError):
        recipes.settle("p", "desk", record="t-1", actor="t-1")
    with pytest.raises(NotFound):
        recipes.settle("p", "desk", record="t-9", actor="t-9")
    assert recipes.get("p", "desk").state == "draft"


def test_projects_do_not_share_recipes_and_near_names_are_told(store: Path) -> None:
    with pytest.raises(NotFound, match="No recipe has been added"):
        recipes.get("p", "desk")
    recipes.put("p", "", sealed(), actor="k")
    recipes.put("p", "", sealed("help"), actor="k")
    assert [kept.name for kept in recipes.list_recipes("p")] == ["desk", "help"]
    assert recipes.get("p", "moa/desk") == recipes.get("p", "desk")
    with pytest.raises(NotFound, match="moa/desk"):
        recipes.get("p", "dask")
    for call in (lambda: recipes.get("q", "desk"), lambda: recipes.disable("q", "desk", "x", actor="k")):
        with pytest.raises(NotFound):
            call()
