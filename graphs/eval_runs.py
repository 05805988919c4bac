"""Start and cancel a run of an eval. Needs no graph library; the run itself is graphs/grading.py."""

from collections.abc import Mapping
from typing import Any, Final

from graphs import jobs
from moatelier.errors import Conflict
from moatelier.ids import digest_json, new_id
from store import stored_evals, tasks

GRAPH: Final = "grading"


def start(
    project: str, eval: str, *, name: str, source: Mapping[str, Any], metadata: Mapping[str, str]
) -> stored_evals.EvalRun:
    """Write the run, its thread and its thread's run down, then queue that. Raises NotFound."""
    id = new_id("evalrun")
    thread = f"{id}-thread"
    tasks.create_thread(project, id=thread, graph=GRAPH)
    first = f"run-{digest_json([id, 'start'])[:12]}"
    queued = tasks.create_run(project, id=first, thread=thread, input={"eval_run": id})
    # Last, so that whoever dies before leaves no run of an eval that nobody will carry out.
    made = stored_evals.create_run(project, id=id, eval=eval, name=name, source=source, metadata=metadata)
    jobs.submit_or_leave(queued)
    return made


def cancel(project: str, eval: str, id: str) -> stored_evals.EvalRun:
    """End a run; what it has judged stays.

    Raises:
        NotFound: There is no such run.
        Conflict: It has ended.
    """
    run = stored_evals.get_run(project, eval, id)
    ended = stored_evals.settle_run(id, "canceled", told=summary(run))
    if run.status not in stored_evals.OPEN or ended is None or ended.status != "canceled":
        stands = (ended or run).status
        raise Conflict(f"The run has ended ({stands}).", where=id, remedy="There is nothing to cancel.")
    return ended


def so_far(run: stored_evals.EvalRun) -> dict[str, Any]:
    """The same of a run that goes on, at the price of one count: clients look often."""
    criteria = {str(criterion["name"]): {"passed": 0, "failed": 0} for criterion in run.criteria}
    return {"counts": stored_evals.counts(run.id), "criteria": criteria, "usage": {}}


def summary(run: stored_evals.EvalRun) -> dict[str, Any]:
    """What is told of a run beside its status: how many passed, criterion by criterion, and what models were asked."""
    criteria = {str(criterion["name"]): {"passed": 0, "failed": 0} for criterion in run.criteria}
    usage: dict[str, dict[str, int]] = {}
    after: int | None = None
    while page := stored_evals.list_items(run.project, run.id, after=after, limit=PAGE):
        for item in page:
            for result in item.body["results"]:
                criteria[result["name"]]["passed" if result["passed"] else "failed"] += 1
            _count(usage, item.body.get("sample"))
        after = page[-1].number
    return {"counts": stored_evals.counts(run.id), "criteria": criteria, "usage": usage}


PAGE = 500


def _count(usage: dict[str, dict[str, int]], sample: Mapping[str, Any] | None) -> None:
    if not sample or not sample.get("asked"):
        return
    told = usage.setdefault(str(sample["model"]), {"invocation_count": 0, "prompt_tokens": 0, "completion_tokens": 0})
    told["invocation_count"] += 1
    for name in ("prompt_tokens", "completion_tokens"):
        told[name] += int(sample["usage"][name])
