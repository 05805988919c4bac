"""Tasks: written once, ended once."""

import threading
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import Budget, Columns, Goal, Sourced, TaskPlan
from moatelier.errors import Conflict, NotFound
from store import tasks


def _create(id: str = "task-1", project: str = "p", **more: Any) -> tasks.Task:
    fields = {"thread": f"{id}-life", "conversation": "thread-1", "request": "tune", "train_file": "file-1"}
    return tasks.create_task(project, id=id, test_file=None, **fields | more)


def _plan() -> TaskPlan:
    def default(value: Any) -> Any:
        return Sourced(value=value, source="default", confidence=1.0, reason="the default")

    return TaskPlan(
        name="support",
        train_file="file-1",
        modality=default("text"),
        kind=default("classification"),
        columns=default(Columns(input="message", target="intent")),
        goal=default(Goal(metric="accuracy", target=0.9)),
        budget=default(Budget(seconds=600, trials=3)),
        method=default("lora"),
        base=default("tiny"),
        private=default("redact"),
        too_long=default("refuse"),
    )


def test_a_task_begins_planning(store: Path) -> None:
    task = _create()
    assert (task.status, task.name, task.plan, task.cancel_requested, task.ended_at) == (
        "planning",
        "",
        None,
        False,
        None,
    )
    assert tasks.get_task("p", "task-1") == tasks.find_task("task-1") == task
    assert not task.ended


def test_creating_twice_is_creating_once(store: Path) -> None:
    first = _create()
    tasks.update_task("task-1", status="training")
    again = _create(request="something else")
    assert (again.status, again.request, again.created_at) == ("training", "tune", first.created_at)
    with pytest.raises(Conflict, match="taken"):
        _create(project="other")


def test_other_projects_see_nothing(store: Path) -> None:
    _create()
    for call in (tasks.get_task, tasks.request_cancel):
        with pytest.raises(NotFound, match="task-1"):
            call("other", "task-1")
    with pytest.raises(NotFound):
        tasks.find_task("task-2")
    with pytest.raises(NotFound):
        tasks.update_task("task-2", status="failed")
    assert tasks.list_tasks("other") == []


def test_plan_and_result_come_back(store: Path) -> None:
    _create()
    plan = _plan()
    assert tasks.update_task("task-1", plan=plan, name="support", status="awaiting_approval").plan == plan
    read = tasks.get_task("p", "task-1")
    assert read.plan is not None and read.plan.digest == plan.digest
    assert tasks.update_task("task-1", plan=plan.model_dump(mode="json")).plan == plan
    tasks.update_task("task-1", status="reached", result={"model": "ft:tiny:support:12345678", "claim": [0.9, 0.95]})
    ended = tasks.get_task("p", "task-1")
    assert ended.ended and ended.ended_at is not None and ended.updated_at >= read.updated_at
    assert ended.result == {"model": "ft:tiny:support:12345678", "claim": [0.9, 0.95]}


def test_a_task_ends_once(store: Path) -> None:
    _create()
    ended = tasks.update_task("task-1", status="cancelled")
    assert tasks.update_task("task-1", status="failed", error={"code": "late"}) == ended
    assert tasks.update_task("task-1", status="training") == ended
    again = tasks.update_task("task-1", status="cancelled", result={"trials": 1})  # a node that runs again
    assert (again.ended_at, again.result) == (ended.ended_at, {"trials": 1})


def test_a_field_that_does_not_exist_is_our_mistake(store: Path) -> None:
    _create()
    with pytest.raises(AssertionError, match="stauts"):
        tasks.update_task("task-1", stauts="reached")


def test_cancel_is_asked_for_until_the_end(store: Path) -> None:
    _create()
    assert tasks.request_cancel("p", "task-1").cancel_requested
    assert tasks.request_cancel("p", "task-1").cancel_requested
    tasks.update_task("task-1", status="not_reached")
    with pytest.raises(Conflict, match="not_reached"):
        tasks.request_cancel("p", "task-1")


def test_tasks_are_listed_newest_first_page_by_page(store: Path) -> None:
    for number in range(5):
        _create(f"task-{number}")
    _create("task-other", project="other")
    first = tasks.list_tasks("p", limit=2)
    assert [task.id for task in first] == ["task-4", "task-3"]
    assert [task.id for task in tasks.list_tasks("p", after="task-3")] == ["task-2", "task-1", "task-0"]
    assert tasks.list_tasks("p", after="task-0") == []
    with pytest.raises(NotFound):
        tasks.list_tasks("p", after="task-other")


def test_writers_of_different_fields_do_not_undo_each_other(store: Path) -> None:
    _create()

    def ask() -> None:
        tasks.request_cancel("p", "task-1")

    def move() -> None:
        for status in ("curating", "training", "evaluating"):
            tasks.update_task("task-1", status=status)

    threads = [threading.Thread(target=call) for call in (ask, move, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    task = tasks.find_task("task-1")
    assert task.cancel_requested and task.status == "evaluating"
