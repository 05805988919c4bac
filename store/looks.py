"""Looks at locked test rows: counted by the rows' content, written down before they happen."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moatelier.errors import LooksExhausted
from store import audit
from store.db import exclusive, reading, session
from store.tables import LookRow


def take_look(project: str, locked: str, task: str, candidate: str, allowed: int = 5) -> int:
    """Write a look down and return its number, counted from 1. Call it before the rows are read.

    The same task with the same candidate gets its old number back, so a restarted gate uses up no second look.

    Args:
        project: Whose locked rows they are.
        locked: Content hash of the rows.
        task: The task that looks.
        candidate: Digest of the bundle, or of the recipe, that is tried.
        allowed: How many looks the bounds of the claims are made for.

    Raises:
        LooksExhausted: All allowed looks were taken.
    """
    return take_looks(project, [locked], task, candidate, allowed)[0]


def take_looks(project: str, locked: Sequence[str], task: str, candidate: str, allowed: int = 5) -> list[int]:
    """`take_look` at several sets, all or none: no look is spent where another set has none left.

    Raises:
        LooksExhausted: All allowed looks at one of them were taken; at the others none was.
    """
    with session() as opened:
        exclusive(opened, f"looks {project}")
        return [_take(opened, project, each, task, candidate, allowed) for each in locked]


def _take(opened: Session, project: str, locked: str, task: str, candidate: str, allowed: int) -> int:
    same = LookRow.task == task, LookRow.candidate == candidate
    taken = opened.scalar(select(LookRow.number).where(LookRow.project == project, LookRow.locked == locked, *same))
    if taken is not None:
        return taken
    number = _count(opened, project, locked) + 1
    if number > allowed:
        raise _exhausted(locked, allowed)
    opened.add(LookRow(project=project, locked=locked, number=number, task=task, candidate=candidate))
    body = {"locked": locked, "number": number, "allowed": allowed, "task": task}
    audit.write(project, task, "test.look", candidate, body, within=opened)
    return number


def need_look(project: str, locked: str, allowed: int = 5) -> None:
    """Make sure that a look is left, before anything is trained for it.

    Raises:
        LooksExhausted: All allowed looks were taken.
    """
    if looks_taken(project, locked) >= allowed:
        raise _exhausted(locked, allowed)


def _exhausted(locked: str, allowed: int) -> LooksExhausted:
    return LooksExhausted(
        f"These locked rows have had all {allowed} looks that the claims allow.",
        where=locked,
        remedy="Bring new test rows, which no model was chosen by: `--test FILE`, of a recipe `--exam FILE`.",
    )


def looks_taken(project: str, locked: str) -> int:
    """How many looks these locked rows have had."""
    with reading() as opened:
        return _count(opened, project, locked)


def _count(opened: Session, project: str, locked: str) -> int:
    query = select(func.count()).select_from(LookRow).where(LookRow.project == project, LookRow.locked == locked)
    return opened.scalar(query) or 0
