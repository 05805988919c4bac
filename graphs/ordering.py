"""A training that a program asks for, as a task: the plan is made of the request, and the request approves it.

Needs no graph library: the API starts such tasks with `start`, the task's graph asks the rest.
"""

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

from agents import orders as planner
from graphs import jobs
from moatelier.contracts import Order, TaskPlan, TrainResult
from moatelier.ids import digest_json, new_id
from store import artifacts, datasets, orders, tasks

RESULTS = "fine-tune-results"
"""The purpose of the file with a job's losses."""
APPROVED = "The request itself is the approval: such a client cannot be asked."


def start(
    project: str,
    order: Order,
    *,
    request: Mapping[str, Any],
    words: str,
    train_file: str,
    test_file: str | None,
    id: str | None = None,
) -> tasks.Task:
    """Write the task with its thread, run and order down, then queue the run.

    Args:
        project: Whose task it is.
        order: What to do.
        request: As the client sent it, to be shown again.
        words: The same in a sentence.
        train_file: Id of the training file.
        test_file: Id of the file whose rows are locked, if any.
        id: Its id; who brings the same one again is given the task that has it. Default: a fresh one.

    Raises:
        InvalidRequest: Goal, budget or name cannot be used, whatever the files hold.
    """
    planner.check(order)
    task = id or new_id("ftjob")
    thread, first = f"{task}-thread", f"run-{digest_json([task, 'start'])[:12]}"
    tasks.create_thread(project, id=thread, graph="lifecycle", task=task)
    told = {"task": task, "order": order.model_dump(mode="json")}
    run = tasks.create_run(project, id=first, thread=thread, input=told)
    orders.put(project, task, request)
    made = tasks.create_task(  # last, so that whoever dies before leaves no task that nobody will carry out
        project, id=task, thread=thread, conversation=thread, request=words, train_file=train_file, test_file=test_file
    )
    jobs.submit_or_leave(run)
    return made


def plan(order: dict[str, Any], known: dict[str, Any]) -> TaskPlan:
    """The plan of an order, from what the planner is given for any other task; a retrain's is the one of before."""
    if again := order.get("again"):
        files = {"train_file": known["train_file"], "test_file": known.get("test_file")}
        return TaskPlan.model_validate(artifacts.get_json(again)).model_copy(update=files)
    return planner.plan(Order.model_validate(order), **known)


def keep_curves(project: str, task: str, results: Sequence[TrainResult]) -> str:
    """Keep a task's losses, step by step, as a file of the project; its id, the same however often."""
    written = StringIO(newline="")
    table = csv.writer(written, lineterminator="\n")
    table.writerow(("trial", "step", "train_loss", "valid_loss"))
    for trial, result in enumerate(results, start=1):
        train, dev = dict(result.curve), dict(result.dev_curve)
        for step in sorted({*train, *dev}):
            table.writerow((trial, step, train.get(step, ""), dev.get(step, "")))
    id, name = f"file-{digest_json([task, 'curves'])[:24]}", f"{task}-step-metrics.csv"
    stream = BytesIO(written.getvalue().encode())
    return datasets.add_file(project, name, stream, purpose=RESULTS, id=id).id
