r"""Rollouts: challengers on their way to an alias. Every move is one transaction, the alias with it.

    shadow -> canary -> promoted             the alias points at the challenger
          \\-------\\--> rolled_back | stopped      it stays as it was

An ended rollout never moves again, so a worker that comes late, or twice, changes nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from moatelier.contracts import RolloutPlan, RolloutState, now
from moatelier.errors import Conflict, InvalidRequest, NotFound
from moatelier.faults import fault_point
from moatelier.ids import digest_json, new_id
from store import audit
from store.adapters import get as adapter
from store.adapters import point
from store.db import exclusive, reading, session
from store.live_tables import RolloutRow
from store.runs import enter_run
from store.tables import AliasRow, Stored, ThreadRow

OPEN: tuple[RolloutState, ...] = ("shadow", "canary")
UNDRAWN = frozenset({"transcription", "retrieval"})
"""Kinds of answers whose routes draw nobody."""
_END: Mapping[str, RolloutState] = {"promote": "promoted", "roll_back": "rolled_back", "stop": "stopped"}


class Rollout(Stored):
    """One rollout. `fence` is the alias's when it began."""

    id: str
    project: str
    alias: str
    champion: str
    challenger: str
    fence: int
    state: RolloutState
    plan: RolloutPlan
    evidence: dict[str, Any] | None
    reason: str
    actor: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Nothing more will happen."""
        return self.state not in OPEN


def _record(row: RolloutRow) -> Rollout:
    return Rollout(**{name: getattr(row, name) for name in Rollout.model_fields})


def begin(
    project: str, alias: str, challenger: str, plan: RolloutPlan, *, actor: str, id: str | None = None
) -> Rollout:
    """Write a rollout down. Idempotent by id.

    Args:
        project: Whose alias it is.
        alias: The name that people ask by.
        challenger: Digest, model id or alias of a registered adapter of the champion's base and kind.
        plan: How it is tried.
        actor: Who decided it: a key, or a task.
        id: Default: a fresh one.

    Raises:
        NotFound: There is no such alias or adapter.
        InvalidRequest: The challenger is the champion, or of another base or kind of answers.
        Conflict: The alias has a rollout under way already.
    """
    record = adapter(project, challenger)
    with session() as opened:
        exclusive(opened, "aliases")
        if id is not None and (known := opened.get(RolloutRow, id)) is not None:
            return _record(_owned(known, project, id))
        pointed = opened.get(AliasRow, (project, alias))
        if pointed is None:
            raise NotFound(
                "There is no such alias, so nobody has a place to take.",
                where=alias,
                remedy="`moatelier adapters list` shows the aliases.",
            )
        _need_fit(project, pointed.digest, record.digest, alias)
        if (under_way := opened.scalar(_open(project, alias))) is not None:
            raise Conflict(
                f"The alias has the rollout {under_way.id} under way.",
                where=alias,
                remedy=f"Wait for its end, or stop it: moatelier rollout stop {alias}",
            )
        row = RolloutRow(id=id or new_id("rollout"), project=project, alias=alias, open=alias, actor=actor, told="")
        row.champion, row.challenger, row.fence = pointed.digest, record.digest, pointed.fence
        row.state, row.plan = "shadow" if plan.shadow else "canary", plan.model_dump(mode="json")
        row.reason = f"Begun with {100 * plan.share:g} % of those who ask."
        row.created_at = row.updated_at = now()
        opened.add(row)
        told = {"alias": alias, "champion": row.champion, "challenger": row.challenger, "plan": row.plan}
        audit.write(project, actor, f"rollout.{row.state}", row.id, told, within=opened)
        opened.flush()
        return _record(row)


def _need_fit(project: str, champion: str, challenger: str, alias: str) -> None:
    if champion == challenger:
        raise InvalidRequest(
            "The challenger is the champion.", where=alias, remedy="Name another adapter: moatelier adapters list"
        )
    ours, theirs = (adapter(project, digest).manifest for digest in (challenger, champion))
    if (ours.modality, ours.kind) != (theirs.modality, theirs.kind):
        raise InvalidRequest(
            f"The challenger is for {ours.kind} of {ours.modality}; the champion, for {theirs.kind} of "
            f"{theirs.modality}.",
            where=alias,
            remedy="Name an adapter that answers the same kind of question.",
        )
    if theirs.kind in UNDRAWN:
        raise InvalidRequest(
            f"Requests for {theirs.kind} are not divided between two models.",
            where=alias,
            remedy="Ask both by their ids, and let a task of the alias's name decide at the gate.",
        )


def _open(project: str, alias: str) -> Any:
    return select(RolloutRow).where(RolloutRow.project == project, RolloutRow.open == alias)


def _owned(row: RolloutRow | None, project: str, id: str) -> RolloutRow:
    if row is None or row.project != project:
        raise NotFound(
            "There is no such rollout in this project.", where=id, remedy="`moatelier rollout list` shows them."
        )
    return row


def get(project: str, id: str) -> Rollout:
    """A rollout by its id, or the newest one of an alias. Raises NotFound."""
    newest = select(RolloutRow).where(RolloutRow.project == project, RolloutRow.alias == id)
    with reading() as opened:
        row = opened.get(RolloutRow, id)
        row = row or opened.scalar(newest.order_by(RolloutRow.created_at.desc(), RolloutRow.id.desc()).limit(1))
        return _record(_owned(row, project, id))


def under_way(project: str, alias: str) -> Rollout | None:
    """The alias's open rollout, if there is one."""
    with reading() as opened:
        row = opened.scalar(_open(project, alias))
        return None if row is None else _record(row)


def list_rollouts(project: str, limit: int = 100) -> list[Rollout]:
    """The project's rollouts, newest first."""
    query = select(RolloutRow).where(RolloutRow.project == project)
    with reading() as opened:
        rows = opened.scalars(query.order_by(RolloutRow.created_at.desc(), RolloutRow.id.desc()).limit(limit))
        return [_record(row) for row in rows]


def all_open() -> list[Rollout]:
    """The open rollouts of all projects, oldest first, for the worker."""
    query = select(RolloutRow).where(RolloutRow.open.is_not(None)).order_by(RolloutRow.created_at)
    with reading() as opened:
        return [_record(row) for row in opened.scalars(query)]


def untold() -> list[Rollout]:
    """Rollouts of all projects whose state readers have not heard of yet, for the worker."""
    query = select(RolloutRow).where(RolloutRow.told != RolloutRow.state).order_by(RolloutRow.updated_at)
    with reading() as opened:
        return [_record(row) for row in opened.scalars(query)]


def told(id: str, state: RolloutState) -> None:
    """Readers have heard of a state. For the worker."""
    with session() as opened:
        opened.execute(update(RolloutRow).where(RolloutRow.id == id).values(told=state))


def note(id: str, evidence: Mapping[str, Any], reason: str) -> None:
    """Write down what is known so far of an open rollout, for whoever looks. For the worker."""
    with session() as opened:
        row = opened.get(RolloutRow, id, with_for_update=True)
        if row is not None and row.open is not None and (row.evidence, row.reason) != (evidence, reason):
            row.evidence, row.reason, row.updated_at = dict(evidence), reason, now()


def move(project: str, id: str, move: str, reason: str, *, actor: str) -> Rollout:
    """Carry a decision out: alias, rollout, audit line and the way into `auto` change together or not at all.

    Args:
        project: Whose it is.
        id: The rollout.
        move: `canary`, `promote`, `roll_back` or `stop`.
        reason: Why.
        actor: Who decided it.

    Raises:
        NotFound: There is no such rollout.
        Conflict: It is to be promoted, and another decision has moved the alias since it began.
    """
    fault_point(f"rollout.before_{move}")
    with session() as opened:
        exclusive(opened, "aliases")
        row = _owned(opened.get(RolloutRow, id, with_for_update=True), project, id)
        if row.open is None or (move == "canary" and row.state == "canary"):
            return _record(row)  # whoever was first has decided
        if move == "canary":
            row.state = "canary"
        else:
            row.state, row.open, row.ended_at = _END[move], None, now()
        if move == "promote":
            _swap(opened, row, actor)
        row.reason, row.updated_at = reason, now()
        told = {"alias": row.alias, "champion": row.champion, "challenger": row.challenger, "reason": reason}
        audit.write(project, actor, f"rollout.{row.state}", row.id, told, within=opened)
        opened.flush()
        fault_point(f"rollout.inside_{move}")
        moved = _record(row)
    fault_point(f"rollout.after_{move}")
    return moved


def _swap(opened: Session, row: RolloutRow, actor: str) -> None:
    """The alias moves to the challenger, which then enters `auto` in the champion's place."""
    pointed = opened.get(AliasRow, (row.project, row.alias))
    if pointed is None or (pointed.digest, pointed.fence) != (row.champion, row.fence):
        raise Conflict("The alias was moved meanwhile.", where=row.alias, remedy="Begin another rollout.")
    point(opened, row.project, row.alias, row.challenger, fence=row.fence + 1, actor=actor)
    thread, run = f"{row.id}-entry", f"run-{digest_json([row.id, 'entry'])[:12]}"
    made = ThreadRow(id=thread, project=row.project, graph="entry", status="idle", task=None)
    made.meta, made.values, made.interrupts = {"rollout": row.id}, {}, []
    opened.add(made)
    opened.flush()
    enter_run(opened, row.project, run, thread, {"adapter": row.challenger})


def revert(project: str, id: str, *, actor: str) -> Rollout:
    """Give the alias back to the champion of a promoted rollout, in one transaction. Idempotent.

    Raises:
        NotFound: There is no such rollout.
        Conflict: It was not promoted, or the alias has been moved again since.
    """
    found = get(project, id)
    with session() as opened:
        exclusive(opened, "aliases")
        row = _owned(opened.get(RolloutRow, found.id, with_for_update=True), project, id)
        if row.state == "rolled_back":
            return _record(row)
        pointed = opened.get(AliasRow, (project, row.alias))
        mine = pointed is not None and (pointed.digest, pointed.fence) == (row.challenger, row.fence + 1)
        if row.state != "promoted" or not mine:
            raise Conflict(
                "Only what was promoted last can be taken back.",
                where=row.alias,
                remedy="An open rollout is stopped: moatelier rollout stop ALIAS",
            )
        point(opened, project, row.alias, row.champion, fence=row.fence + 2, actor=actor)
        row.state, row.reason, row.updated_at = "rolled_back", f"Taken back by {actor}.", now()
        audit.write(project, actor, "rollout.rolled_back", row.id, {"alias": row.alias}, within=opened)
        opened.flush()
        return _record(row)
