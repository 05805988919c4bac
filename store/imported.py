"""Jobs, evals and runs of another service, kept as it told them. Whatever is imported again changes nothing."""

from collections.abc import Mapping
from typing import Any

from moatelier.errors import Conflict
from store import orders, stored_evals, tasks

IMPORTED = "imported"
"""The field of an order that holds a job as the other service told it, and the status of its task."""


def keep_job(project: str, job: Mapping[str, Any]) -> tasks.Task:
    """A job as a task that has ended elsewhere: nothing is trained, and its model is not here.

    Raises:
        Conflict: The id is taken by another project, or by a task of this service.
    """
    id = str(job["id"])
    thread = tasks.create_thread(project, id=f"{id}-thread", graph="lifecycle", task=id)
    words = f"Imported: fine-tune {job.get('model')} on {job.get('training_file')}"
    task = tasks.create_task(
        project,
        id=id,
        thread=thread.id,
        conversation=thread.id,
        request=words,
        train_file=str(job.get("training_file") or ""),
        test_file=job.get("validation_file"),
    )
    known = orders.get(project, id)
    if known is not None and IMPORTED not in known or (known is None and task.status != "planning"):
        raise Conflict("A task of this service has this id.", where=id, remedy="It is left as it is.")
    orders.put(project, id, {IMPORTED: dict(job)})
    return tasks.update_task(id, status=IMPORTED, result={"model": None, "elsewhere": job.get("fine_tuned_model")})


def keep_run(project: str, run: Mapping[str, Any]) -> stored_evals.EvalRun:
    """A run of an imported eval that has ended. Raises NotFound where the eval is not there, and Conflict."""
    counts = run.get("result_counts") or {}
    told = {
        "counts": {name: int(counts.get(name) or 0) for name in ("total", "passed", "failed", "errored")},
        "criteria": {
            str(each["testing_criteria"]): {"passed": int(each["passed"]), "failed": int(each["failed"])}
            for each in run.get("per_testing_criteria_results") or []
        },
        "usage": {
            str(each["model_name"]): {
                name: int(each[name]) for name in ("invocation_count", "prompt_tokens", "completion_tokens")
            }
            for each in run.get("per_model_usage") or []
        },
    }
    return stored_evals.create_run(
        project,
        id=str(run["id"]),
        eval=str(run["eval_id"]),
        name=str(run.get("name") or ""),
        source=run.get("data_source") or {},
        metadata=run.get("metadata") or {},
        status=run["status"],
        told=told,
        error=run.get("error"),
    )


def keep_item(project: str, item: Mapping[str, Any]) -> None:
    """An item that a run found. Raises NotFound where the run is not there."""
    run = stored_evals.get_run(project, str(item["eval_id"]), str(item["run_id"]))
    passed = {"pass": True, "passed": True, "fail": False, "failed": False}.get(str(item.get("status")))
    body = {"item": item.get("datasource_item") or {}, "sample": item.get("sample"), "error": None}
    body["results"] = item.get("results") or []
    stored_evals.add_item(run, int(item["datasource_item_id"]), passed, body)
