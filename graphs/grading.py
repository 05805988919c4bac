"""One run of an eval: each item is asked, if a model is to be asked, and graded; what was found is kept at once.

    grade -> settle

A worker that is killed goes on with the items that are left. A run that was cancelled asks nothing more.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from langgraph.graph import END, START, StateGraph
from pydantic import TypeAdapter

from evals.graders import Result, graded
from graphs import eval_items, eval_runs
from graphs.answering import answering
from graphs.checkpoint import prune, saver
from graphs.served import engine_url
from graphs.served_models import ServedModels
from graphs.state import GradingState
from moatelier.contracts import Grader
from moatelier.errors import Cancelled, MoatelierError
from serving.upstream import Upstream
from store import stored_evals, tasks

POLL_S = 0.5
AT_ONCE = 8
"""Items that are open together."""
_GRADERS: TypeAdapter[tuple[Grader, ...]] = TypeAdapter(tuple[Grader, ...])
log = logging.getLogger("moatelier.worker")


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for its one run."""
    told = {"run": run.id, "project": run.project, "stream": thread.id}
    return told | {"eval_run": (run.input or {})["eval_run"]}


def grade(state: GradingState) -> GradingState:
    """Ask and grade what is left; whatever ends the whole run is told in it."""
    run = stored_evals.settle_run(state["eval_run"], "in_progress")
    if run is None or run.status != "in_progress":
        return {}
    try:
        asyncio.run(_grade_all(run))
    except Cancelled:
        return {}
    except MoatelierError as error:
        return {"error": error.to_dict()}
    except Exception as error:
        log.exception("the run %s of an eval failed", run.id)
        return {"error": MoatelierError(f"{type(error).__name__}: {error}").to_dict()}
    return {}


def settle(state: GradingState) -> GradingState:
    """Write down how it ended."""
    run = stored_evals.find_run(state["eval_run"])
    if run is not None:
        error = state.get("error")
        told = {"code": error["code"], "message": str(MoatelierError.from_dict(error))} if error else None
        stored_evals.settle_run(run.id, "failed" if told else "completed", told=eval_runs.summary(run), error=told)
    prune(state["stream"])
    return {}


async def _grade_all(run: stored_evals.EvalRun) -> None:
    """Raises what ends the run: items that cannot be read, or Cancelled."""
    items = await asyncio.to_thread(eval_items.read, run)
    done = await asyncio.to_thread(stored_evals.judged, run.id)
    graders, places = _GRADERS.validate_python(run.criteria), asyncio.Semaphore(AT_ONCE)
    async with answering(engine_url()) as answers, Upstream(engine_url()) as upstream:
        models = ServedModels(run.project, answers, upstream)

        async def one(number: int, item: Mapping[str, Any]) -> None:
            async with places:
                passed, body = await judge(run, item, graders, models)
                await asyncio.to_thread(stored_evals.add_item, run, number, passed, body)

        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(_need_open(run.id))
                left = [group.create_task(one(number, item)) for number, item in enumerate(items) if number not in done]
                await asyncio.gather(*left)
                watch.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed


async def _need_open(run: str) -> None:
    """Raise Cancelled, which ends all questions that are open, as soon as nobody wants the run any more."""
    while (found := await asyncio.to_thread(stored_evals.find_run, run)) and found.status in stored_evals.OPEN:
        await asyncio.sleep(POLL_S)
    raise Cancelled("The run was cancelled.", where=run)


async def judge(
    run: stored_evals.EvalRun, given: Mapping[str, Any], graders: tuple[Grader, ...], models: ServedModels
) -> tuple[bool | None, dict[str, Any]]:
    """Whether an item passes, None where it could not be judged, and what is told of it."""
    item, sample = given["item"], given.get("sample")
    results: list[Result] = []
    error: MoatelierError | None = None
    try:
        if eval_items.asks(run.source):
            sample = await eval_items.sampled(run.source, item, models.ask)
        known = {"item": item} | ({"sample": eval_items.shown(sample)} if sample else {})
        results = [await graded(grader, known, partial(_text, models), models.embed) for grader in graders]
    except MoatelierError as failed:
        error = failed
    passed = None if error else all(result.passed for result in results)
    told = {"code": error.code, "message": str(error)} if error else None
    return passed, {"item": item, "sample": sample, "results": [r.model_dump() for r in results], "error": told}


async def _text(models: ServedModels, model: str, messages: list[dict[str, str]], fields: Mapping[str, Any]) -> str:
    return (await models.ask(model, messages, fields)).text


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    graph = StateGraph(GradingState)
    graph.add_node("grade", grade)
    graph.add_node("settle", settle)
    graph.add_edge(START, "grade")
    graph.add_edge("grade", "settle")
    graph.add_edge("settle", END)
    return graph.compile(checkpointer=saver())
