"""`/runs/crons`: runs that are started again and again by a schedule. The worker starts them (store/crons.py)."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from api.auth import Project
from api.bodies import Body
from api.routes.threads.requests import check_fields, read_choice, read_input, read_metadata, read_number
from api.routes.threads.shapes import ASSISTANTS, cron_json, selected
from api.routes.threads.threads import conversation
from moatelier.errors import InvalidRequest
from store import crons

router = APIRouter()
COMPLETED: dict[str, crons.Completed] = {"delete": "delete", "keep": "keep"}


def _schedule(body: dict[str, Any]) -> str:
    schedule = body.get("schedule")
    if not isinstance(schedule, str):
        raise InvalidRequest(
            "A cron needs a schedule.", where="schedule", remedy="Send five fields, such as `0 3 * * 1`."
        )
    return schedule


def _end_time(body: dict[str, Any]) -> datetime | None:
    value = body.get("end_time")
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest("`end_time` is no time.", where="end_time", remedy="Send ISO 8601.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"`{name}` is a text.", where=name)
    return value


def _flag(body: dict[str, Any], name: str, default: bool | None) -> bool | None:
    value = body.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` is true or false.", where=name)
    return value


def _create(project: str, thread: str | None, body: dict[str, Any]) -> dict[str, Any]:
    check_fields(body)
    completed = read_choice(body, "on_run_completed", COMPLETED, "delete")
    made = crons.create(
        project,
        thread=thread,
        schedule=_schedule(body),
        input=read_input(project, body.get("input")),
        timezone=_text(body, "timezone"),
        metadata=read_metadata(body),
        on_run_completed=COMPLETED[completed],
        enabled=_flag(body, "enabled", True) is not False,
        end_time=_end_time(body),
    )
    return cron_json(made)


@router.post("/runs/crons")
def create_cron(project: Project, body: Body) -> dict[str, Any]:
    """Make a cron whose every run has a thread of its own."""
    return _create(project, None, body)


@router.post("/threads/{thread_id}/runs/crons")
def create_cron_for_thread(thread_id: str, project: Project, body: Body) -> dict[str, Any]:
    """Make a cron that speaks on a thread; while that is busy or waits for an answer, it waits."""
    return _create(project, conversation(project, thread_id).id, body)


@router.patch("/runs/crons/{cron_id}")
def update_cron(cron_id: str, project: Project, body: Body) -> dict[str, Any]:
    """Change a cron: schedule, timezone, end_time, input, metadata, on_run_completed, enabled."""
    check_fields(body)
    fields: dict[str, Any] = {}
    if "schedule" in body:
        fields["schedule"] = _schedule(body)
    if "timezone" in body:
        fields["timezone"] = _text(body, "timezone")
    if "end_time" in body:
        fields["end_time"] = _end_time(body)
    if "input" in body:
        fields["input"] = read_input(project, body["input"])
    if "metadata" in body:
        fields["metadata"] = read_metadata(body)
    if "on_run_completed" in body:
        fields["on_run_completed"] = read_choice(body, "on_run_completed", COMPLETED, "delete")
    if body.get("enabled") is not None:
        fields["enabled"] = _flag(body, "enabled", None)
    return cron_json(crons.change(project, cron_id, **fields))


@router.delete("/runs/crons/{cron_id}", status_code=204)
def delete_cron(cron_id: str, project: Project) -> Response:
    """Forget a cron; runs that it started stay."""
    crons.delete(project, cron_id)
    return Response(status_code=204)


def _wanted(body: dict[str, Any]) -> dict[str, Any] | None:
    """What a search or a count goes by; None when nothing can match."""
    if body.get("assistant_id") not in (None, *ASSISTANTS):
        return None
    return {
        "thread": _text(body, "thread_id"),
        "enabled": _flag(body, "enabled", None),
        "metadata": read_metadata(body),
    }


@router.post("/runs/crons/search")
def search(project: Project, body: Body) -> list[dict[str, Any]]:
    """The project's crons, newest first unless told otherwise."""
    wanted = _wanted(body)
    limit, offset = read_number(body, "limit", 10, 1000), read_number(body, "offset", 0, 1_000_000_000)
    by = read_choice(body, "sort_by", (*crons.SORTED, "assistant_id"), "created_at")
    order: dict[str, Any] = {
        "sort_by": "cron_id" if by == "assistant_id" else by,
        "descending": read_choice(body, "sort_order", ("asc", "desc"), "desc") == "desc",
    }
    found = [] if wanted is None else crons.search(project, limit=limit, offset=offset, **order, **wanted)
    return [selected(cron_json(cron), body.get("select")) for cron in found]


@router.post("/runs/crons/count")
def count(project: Project, body: Body) -> int:
    """How many crons a search would find."""
    wanted = _wanted(body)
    return 0 if wanted is None else crons.count(project, **wanted)
