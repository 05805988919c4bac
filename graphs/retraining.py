"""A model is trained again: a trigger fires, its lessons join the file of before, the plan of before holds once more.

    fire (one transaction) -> file (its id is the firing's) -> task (the same) -> settled

Whoever is killed in between, the next sweep goes on under the same ids. The task ends like any other at the gate, whose
bar is the champion; what it promotes is tried in a rollout before it takes the alias.
"""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from graphs import metrics, ordering
from moatelier.contracts import Columns, Kind, LessonBody, Order, TaskPlan
from moatelier.errors import Conflict, DataError, MoatelierError
from moatelier.faults import fault_point
from moatelier.ids import digest_json
from modalities.text.reading import Table, read_table
from store import adapters, alerts, artifacts, datasets, lessons, retrains, tasks
from store.retrains import Retrain

log = logging.getLogger("moatelier.worker")


def fire_due() -> int:
    """Fire every trigger that says so, and start what was fired; how many tasks. For the sweeper."""
    for project, alias in retrains.enabled():
        try:
            retrains.fire(project, alias)
        except MoatelierError:
            log.exception("the trigger of %s could not be looked at; the next sweep tries again", alias)
    return sum(start(retrain) for retrain in retrains.fired())


def start(retrain: Retrain) -> bool:
    """Start the task of a firing, or find it started; False where it cannot be, which is told."""
    try:
        task = _start(retrain)
    except MoatelierError as error:
        if error.status >= 500:  # the store, or the disk: the next sweep tries again
            raise
        _give_up(retrain, error)
        return False
    retrains.settle(retrain.id, "started", task=task.id)
    metrics.RETRAINS.labels(retrain.cause, "started").inc()
    return True


def _give_up(retrain: Retrain, error: MoatelierError) -> None:
    what = f"The retrain of {retrain.alias} could not begin: {error.what}"
    alerts.raise_once(retrain.project, "retrain", retrain.alias, what, error.to_dict(), about=retrain.id)
    log.warning("%s", what)
    metrics.RETRAINS.labels(retrain.cause, "failed").inc()
    retrains.settle(retrain.id, "failed", error=error.to_dict())


def _start(retrain: Retrain) -> tasks.Task:
    before, plan = _before(retrain)
    file = _file(retrain, before, plan)
    fault_point("retrain.after_file")
    words = (
        f"Train {retrain.alias} again on its data with {retrain.lessons} further rows from feedback ({retrain.cause})"
    )
    order = Order(
        model=plan.base.value,
        method="dpo" if plan.kind.value == "preference" else "supervised",
        suffix=plan.name,
        seed=plan.seed,
        again=artifacts.put_json(plan),
        rollout=retrain.plan.rollout,
    )
    task = ordering.start(
        retrain.project,
        order,
        request={"model": plan.base.value, "training_file": file, "metadata": _lineage(retrain, before)},
        words=words,
        train_file=file,
        test_file=before.test_file,
        id=f"task-{digest_json([retrain.id, 'task'])[:12]}",
    )
    fault_point("retrain.after_task")
    return task


def _lineage(retrain: Retrain, before: tasks.Task) -> dict[str, str]:
    """What it stands on: the data and the champion of before."""
    dataset = adapters.get(retrain.project, retrain.champion).manifest.dataset
    told = {"retrain": retrain.id, "champion": retrain.champion, "champion_dataset": dataset}
    return told | {"champion_file": before.train_file, "champion_task": before.id}


def _before(retrain: Retrain) -> tuple[tasks.Task, TaskPlan]:
    """The task that made the champion, and its plan.

    Raises:
        Conflict: It was made otherwise, so that nothing says how to make it again.
    """
    champion = adapters.get(retrain.project, retrain.champion)
    try:
        before = tasks.get_task(retrain.project, champion.task)
    except MoatelierError as error:
        raise _unknown(retrain) from error
    if before.plan is None or not before.train_file or before.plan.name != retrain.alias:
        raise _unknown(retrain)
    return before, before.plan


def _unknown(retrain: Retrain) -> Conflict:
    return Conflict(
        f"No task of the name {retrain.alias} has made its champion, so its data and plan are not known.",
        where=retrain.champion,
        remedy="Start a task of this name with the data by hand.",
    )


def _file(retrain: Retrain, before: tasks.Task, plan: TaskPlan) -> str:
    """The file of before with the rows of all lessons that the champion has not seen; its id."""
    file = datasets.get_file(retrain.project, before.train_file)
    table = read_table(datasets.file_path(retrain.project, file.id), file.name)
    taken: list[LessonBody] = []
    for each in retrains.data_of(retrain.project, retrain.alias, before.id, retrain.number):
        taken += [lesson.body for lesson in lessons.of_retrain(retrain.project, each.id)]
    assert isinstance(plan.columns.value, Columns), "a trigger is for models of texts"
    rows = rows_of(taken, plan.kind.value, plan.columns.value, nested=table.format == "jsonl")
    if not rows:
        raise DataError(
            f"None of {len(taken)} lessons makes a row for {plan.kind.value}.",
            where=retrain.id,
            remedy="Say on answers what is right: an edit, or a label.",
        )
    stream = io.BytesIO(joined(table, rows))
    id = f"file-{digest_json([retrain.id, 'file'])[:24]}"
    return datasets.add_file(retrain.project, f"{retrain.alias}-{retrain.number}.{table.format}", stream, id=id).id


def rows_of(taken: Sequence[LessonBody], kind: Kind, columns: Columns, *, nested: bool) -> list[dict[str, Any]]:
    """Lessons as rows of a table with these columns; those that this kind of task has no use for are left out.

    Args:
        taken: Redacted.
        kind: Of the task.
        columns: Which column plays which role.
        nested: A cell may hold a list of messages.
    """
    return [row for body in taken if (row := _row(body, kind, columns, nested)) is not None]


def _row(body: LessonBody, kind: Kind, columns: Columns, nested: bool) -> dict[str, Any] | None:
    asked: Any = _asked(body, nested)
    if asked is None:
        return None
    if kind == "preference":
        if not body.edit or not body.answer.strip() or body.edit.strip() == body.answer.strip():
            return None
        return _named({columns.input: asked, columns.target: body.edit, columns.rejected: body.answer})
    if kind == "thumbs":
        if body.good is None or not body.answer.strip():
            return None
        return _named({columns.input: asked, columns.target: body.answer, columns.thumb: "up" if body.good else "down"})
    wanted = body.wanted
    if wanted is None or not wanted.strip():
        return None
    if kind == "chat" and columns.messages:
        if not nested:
            return None
        return _named({columns.messages: [*map(dict, body.messages), {"role": "assistant", "content": wanted}]})
    return _named({columns.input: asked, columns.target: wanted})


def _asked(body: LessonBody, nested: bool) -> Any:
    """The prompt as a cell: one turn as its text, several as messages where a cell may hold them."""
    turns = [turn for turn in body.messages if turn["role"] != "system"]
    if not turns or not str(turns[-1]["content"]).strip():
        return None
    if len(turns) == 1:
        return turns[0]["content"]
    return [dict(turn) for turn in turns] if nested else None


def _named(cells: Mapping[str | None, Any]) -> dict[str, Any]:
    return {name: value for name, value in cells.items() if name is not None}


def joined(table: Table, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table with further rows, in its own format and UTF-8."""
    written = io.StringIO(newline="")
    everything = [*(record.values for record in table.records), *rows]
    if table.format == "jsonl":
        for row in everything:
            written.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
    else:
        writer = csv.DictWriter(written, table.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(everything)
    return written.getvalue().encode()
