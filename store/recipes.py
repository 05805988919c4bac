"""The recipes of a project: what they are, and whether they may answer requests.

    draft -- a held-out trial went well --> live -- feedback or another trial --> disabled
      ^------------------ other content under the same name ------------------------'

Only a signed `mixture_decision` about just this content makes a recipe live.
"""

from datetime import datetime

from rapidfuzz import fuzz, process
from sqlalchemy import select
from sqlalchemy.orm import Session

from moatelier.contracts import Recipe, RecipeState, now
from moatelier.errors import Conflict, NotFound
from store import audit, records
from store.db import exclusive, reading, session
from store.tables import RecipeRow, Stored


class StoredRecipe(Stored):
    """A recipe as it is kept.

    `source` is the YAML as it was sent. `sealed` is what answers: names of adapters and recipes are digests there, so
    that an alias that moves does not change what a trial has certified; `digest` is its digest. `record` is the key of
    the signed decision that the state rests on, `reason` says in words why the state is what it is.
    """

    project: str
    name: str
    digest: str
    source: str
    sealed: Recipe
    state: RecipeState
    reason: str
    record: str | None
    created_at: datetime
    updated_at: datetime


def put(project: str, source: str, sealed: Recipe, *, actor: str) -> StoredRecipe:
    """Keep a recipe as a draft. The same content again changes nothing, not even its state."""
    with session() as opened:
        exclusive(opened, "recipes")
        row = opened.get(RecipeRow, (project, sealed.name))
        if row is None:
            row = RecipeRow(project=project, name=sealed.name, digest="", created_at=now())
            opened.add(row)
        if row.digest != sealed.digest:
            row.digest, row.source, row.sealed = sealed.digest, source, sealed.model_dump(mode="json")
            _move(opened, row, "draft", "It has not been evaluated.", None, actor)
        opened.flush()
        return StoredRecipe.model_validate(row)


def get(project: str, name: str) -> StoredRecipe:
    """A recipe by its name, with or without `moa/` before it.

    Raises:
        NotFound: The project has none of this name; the remedy lists names that are near.
    """
    plain = name.removeprefix("moa/")
    with reading() as opened:
        row = opened.get(RecipeRow, (project, plain))
        if row is None:
            raise NotFound("There is no such recipe.", where=f"moa/{plain}", remedy=_near(opened, project, plain))
        return StoredRecipe.model_validate(row)


def _near(opened: Session, project: str, name: str) -> str:
    names = [*opened.scalars(select(RecipeRow.name).where(RecipeRow.project == project))]
    near = [
        f"moa/{found}" for found, _, _ in process.extract(name, names, scorer=fuzz.WRatio, score_cutoff=60, limit=3)
    ]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return "`moatelier moa list` shows what there is." if names else "No recipe has been added to this project yet."


def list_recipes(project: str) -> list[StoredRecipe]:
    """The project's recipes by name."""
    query = select(RecipeRow).where(RecipeRow.project == project).order_by(RecipeRow.name)
    with reading() as opened:
        return [StoredRecipe.model_validate(row) for row in opened.scalars(query)]


def settle(project: str, name: str, *, record: str, actor: str) -> StoredRecipe:
    """Carry out a signed decision about a recipe: live, or disabled when the decision says no.

    A decision that was signed before the one that the state rests on changes nothing.

    Args:
        project: Whose recipe it is.
        name: Its name.
        record: Key of the `mixture_decision`; its body says `live` and `reason`.
        actor: Who asked for the decision.

    Raises:
        NotFound: There is no such recipe, or no such record.
        Conflict: The decision is about other content: the recipe was changed since.
        IntegrityError: The record was changed.
    """
    decision = records.get(project, "mixture_decision", record)
    with session() as opened:
        exclusive(opened, "recipes")
        row = _row(opened, project, name)
        if decision.subject != row.digest:
            raise Conflict(
                "The recipe was changed after this decision about it.",
                where=f"moa/{name}",
                remedy=f"Evaluate it as it is now: `moatelier moa evaluate {name}`.",
            )
        if row.record != record and not _is_later(project, row.record, decision):
            state: RecipeState = "live" if decision.body.get("live") is True else "disabled"
            _move(opened, row, state, str(decision.body.get("reason", "")), record, actor)
        return StoredRecipe.model_validate(row)


def _is_later(project: str, held: str | None, decision: records.Record) -> bool:
    """Whether the recipe's state rests on a later decision: an evaluation that was interrupted must not undo it."""
    return held is not None and records.get(project, "mixture_decision", held).created_at > decision.created_at


def disable(project: str, name: str, reason: str, *, actor: str, digest: str | None = None) -> StoredRecipe:
    """Stop a recipe from answering; only a new evaluation lets it again.

    Args:
        project: Whose recipe it is.
        name: Its name.
        reason: Why, in words.
        actor: Who says so.
        digest: The content this is about; None is whatever it is now.

    Raises:
        NotFound: There is no such recipe.
        Conflict: It is other content by now.
    """
    with session() as opened:
        exclusive(opened, "recipes")
        row = _row(opened, project, name)
        if digest not in (None, row.digest):
            raise Conflict("The recipe was changed meanwhile.", where=f"moa/{name}", remedy="Look at it again.")
        if row.state != "disabled":
            _move(opened, row, "disabled", reason, row.record, actor)
        return StoredRecipe.model_validate(row)


def _row(opened: Session, project: str, name: str) -> RecipeRow:
    row = opened.get(RecipeRow, (project, name.removeprefix("moa/")))
    if row is None:
        raise NotFound("There is no such recipe.", where=f"moa/{name}", remedy=_near(opened, project, name))
    return row


def _move(opened: Session, row: RecipeRow, state: RecipeState, reason: str, record: str | None, actor: str) -> None:
    row.state, row.reason, row.record, row.updated_at = state, reason, record, now()
    body = {"digest": row.digest, "state": state, "reason": reason, "record": record}
    audit.write(row.project, actor, f"recipe.{state}", row.name, body, within=opened)
