"""What is measured and made for a recipe: its evaluation on held-out rows, and the rows for its aggregator.

    measure (a job asks) -> judge (the rule decides, the record is signed, the recipe goes live or off) -> close
    collect (a job asks) -> keep (the rows become an uploaded file, for an ordinary task)               -> close

Each is a task without a conversation: it shows in the list of tasks, can be followed and cancelled like any other, and
goes on after a crash.
"""

from functools import cache
from io import BytesIO
from typing import Any

from langgraph.graph import END, START, StateGraph

from evals.statistics import CLAIM_ALPHA
from evals.verdict import judge_recipe
from graphs.checkpoint import prune, saver
from graphs.nodes import guarded, load, run_job, say, set_status
from graphs.recipes import CANDIDATES, MIXTURE
from graphs.state import RecipeState as State
from moatelier.contracts import (
    CandidatesResult,
    CandidatesSpec,
    MixtureDecision,
    MixtureResult,
    MixtureSpec,
)
from moatelier.faults import fault_point
from store import artifacts, datasets, recipes, records, tasks


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for its one run."""
    given = run.input or {}
    return {
        "run": run.id,
        "project": run.project,
        "task": str(thread.task),
        "stream": thread.id,
        "job": given["job"],
        "spec": given["spec"],
    }


@guarded
def measure(state: State) -> State:
    """Ask the recipe and everything it is compared with."""
    set_status(state, "evaluating")
    fault_point("mixture.queued")
    _, result = run_job(state, MIXTURE, state["spec"])
    measured = MixtureResult.model_validate(result)
    say(state, "table", recipe=state["spec"]["name"], **measured.model_dump(mode="json"))
    return {"measured": artifacts.put_json(measured)}


@guarded
def judge(state: State) -> State:
    """Decide by the rule, sign what was decided, and let the recipe answer or stop it."""
    spec = MixtureSpec.model_validate(state["spec"])
    measured = load(state, "measured", MixtureResult)
    verdict = judge_recipe(measured.table)
    result = {
        "recipe": spec.name,
        "digest": spec.recipe,
        "split": spec.split,
        "rows": measured.table.rows,
        "gain": measured.table.gain.difference.point,
        "gain_low": measured.table.gain.difference.claim_low,
        "live": False,
        "reason": verdict.reason,
    }
    if spec.split == "select":
        reason = f"{verdict.reason} These were select rows: nothing follows from them."
        return {"result": result | {"reason": reason}, "outcome": "reached" if verdict.promoted else "not_reached"}
    set_status(state, "gating")
    _sign(spec, measured, verdict.promoted, verdict.reason)
    fault_point("mixture.before_state")
    recipe = recipes.settle(spec.project, spec.name, record=spec.task, actor=spec.task)
    say(state, "recipe", recipe=spec.name, state=recipe.state, reason=recipe.reason)
    live = recipe.state == "live"
    return {"result": result | {"live": live}, "outcome": "reached" if live else "not_reached"}


def _sign(spec: MixtureSpec, measured: MixtureResult, live: bool, reason: str) -> None:
    decision = MixtureDecision(
        task=spec.task,
        name=spec.name,
        recipe=spec.recipe,
        looks=measured.looks,
        alpha=CLAIM_ALPHA,
        table=measured.table,
        left_out=measured.left_out,
        live=live,
        reason=reason,
    )
    records.sign(spec.project, "mixture_decision", spec.recipe, spec.task, decision)


@guarded
def collect(state: State) -> State:
    """Ask the proposers, on dev rows."""
    set_status(state, "evaluating")
    fault_point("candidates.queued")
    _, result = run_job(state, CANDIDATES, state["spec"])
    return {"measured": artifacts.put_json(CandidatesResult.model_validate(result))}


@guarded
def keep(state: State) -> State:
    """Keep the rows as a file of the project, from which an ordinary task trains the aggregator."""
    spec = CandidatesSpec.model_validate(state["spec"])
    made = load(state, "measured", CandidatesResult)
    name = f"{spec.name}-candidates.jsonl"
    file = _kept(spec.project, name, made.artifact) or datasets.add_file(
        spec.project, name, BytesIO(artifacts.get_bytes(made.artifact))
    )
    fault_point("candidates.kept")
    result = {"recipe": spec.name, "file": file.id, **made.model_dump(mode="json", exclude={"artifact"})}
    return {"result": result, "outcome": "reached"}


def _kept(project: str, name: str, digest: str) -> datasets.File | None:
    """The file of a run that was killed after it had been kept."""
    same = (file for file in datasets.list_files(project) if (file.name, file.sha256) == (name, digest))
    return next(same, None)


def close(state: State) -> State:
    """Tell how it ended."""
    outcome, error = state.get("outcome", "failed"), state.get("error")
    if error:
        say(state, "error", **error)
    say(state, "result", task=state["task"], status=outcome, **state.get("result", {}))
    tasks.update_task(state["task"], status=outcome, result=state.get("result"), error=error)
    prune(tasks.find_task(state["task"]).thread)
    return {}


def _or_close(following: str) -> Any:
    return lambda state: "close" if state.get("error") else following


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    graph = StateGraph(State)
    for node in (measure, judge, collect, keep, close):
        graph.add_node(node.__name__, node)
    graph.add_conditional_edges(
        START, lambda state: {MIXTURE: "measure", CANDIDATES: "collect"}[state["job"]], ["measure", "collect"]
    )
    graph.add_conditional_edges("measure", _or_close("judge"), ["judge", "close"])
    graph.add_conditional_edges("collect", _or_close("keep"), ["keep", "close"])
    graph.add_edge("judge", "close")
    graph.add_edge("keep", "close")
    graph.add_edge("close", END)
    return graph.compile(checkpointer=saver())
