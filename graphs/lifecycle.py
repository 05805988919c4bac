"""One task, from a sentence to a served adapter. The whole main flow is on this page.

    profile -> plan -> clarify (a question) or forecast -> approve (a person decides)
        -> curate -> (train -> evaluate -> adjust)* -> gate -> register -> route -> close
           or, where the plan asks for it, (search -> search* -> evaluate)* in the middle

A node gathers evidence, asks an agent, and carries out what it decided. Long work is a job under an idempotent key, so
a node that runs again after a crash finds it done. Interrupts are for people only: one a node, with no effect before
it. Every agent's decision goes to the event log with its reason.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from agents import curator, evaluator, planner, router, trainer
from graphs import approval, bases, closing, curation, evidence, forecasting, ordering, routing, searching
from graphs.checkpoint import prune, saver
from graphs.nodes import decided, guarded, load, run_job, say, set_status
from graphs.planner_endpoint import propose
from graphs.state import LifecycleState as State
from moatelier.contracts import (
    EvalReport,
    EvalSpec,
    GateDecision,
    GateSpec,
    Question,
    TaskPlan,
    TrainResult,
    TrainSpec,
)
from moatelier.errors import Cancelled, InvalidRequest, MoatelierError
from moatelier.faults import fault_point
from store import adapters, artifacts, tasks

APPROVAL = {"decisions": [{"type": "approve"}]}


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for a task's first run."""
    task = tasks.find_task(str(thread.task))
    files = {"train": task.train_file} | ({"test": task.test_file} if task.test_file else {})
    state = {"run": run.id, "project": run.project, "task": task.id, "stream": task.conversation}
    order = (run.input or {}).get("order")
    return state | {"messages": [task.request], "files": files, "round": 0} | ({"order": order} if order else {})


@guarded
def profile(state: State) -> State:
    """Look at the files, read-only."""
    set_status(state, "planning")
    seen = evidence.looks(state)
    say(state, "profile", profile=seen.train.model_dump(mode="json"))
    return {
        "profile": artifacts.put_json(seen.train),
        "test_profile": artifacts.put_json(seen.test) if seen.test else None,
        "other_profiles": [artifacts.put_json(other) for other in seen.others],
    }


@guarded
def plan(state: State) -> State:
    """Understand the request; what is unclear becomes questions."""
    fault_point("node.planning")
    state = state | {"round": state["round"] + 1}
    known = evidence.plan_inputs(state)
    outcome: TaskPlan | tuple[Question, ...]
    if order := state.get("order"):
        outcome = ordering.plan(order, known)
    else:
        proposal = propose(state["messages"], known["profile"])
        outcome = planner.plan(state["messages"], **known, proposal=proposal)
    if not isinstance(outcome, TaskPlan):
        questions = [question.model_dump(mode="json") for question in outcome]
        decided(state, "planner", {"questions": questions}, "What the request leaves open is asked, not guessed.")
        set_status(state, "awaiting_input")
        return {"questions": questions, "round": state["round"]}
    outcome = evidence.with_locked_note(state, outcome)
    decided(state, "planner", outcome.model_dump(mode="json"), "Every field says where its value comes from.")
    return {"plan": artifacts.put_json(outcome), "questions": [], "round": state["round"]}


@guarded
def clarify(state: State) -> State:
    """Ask the person and take the answer as a further message."""
    answer = interrupt({"type": "questions", "task": state["task"], "questions": state["questions"]})
    return {"messages": [approval.answer_text(answer)], "asked": [state["questions"]]}


@guarded
def forecast(state: State) -> State:
    """Fetch the base and what is learnt with it, and measure this machine: the plan says how long it takes."""
    current = load(state, "plan", TaskPlan)
    tasks.update_task(state["task"], plan=current, name=current.name)
    material = curation.read(state, current)
    curation.check(material)
    _, pulled = run_job(state, "pull", {"base": current.base.value})
    chosen, table = bases.choose(state, current, material)
    if chosen.base.value != current.base.value:
        _, pulled = run_job(state, "pull", {"base": chosen.base.value})
    if chosen != current:
        tasks.update_task(state["task"], plan=chosen, name=chosen.name)
        current, material = chosen, replace(material, plan=chosen)
    for model in curation.needs(material):
        run_job(state, "pull", {"base": model})
    told = curation.probing(material)
    rows, dev_rows = evidence.rows_to_train_on(state, current, curation.preflight(material))
    _, speed = run_job(state, "probe", pulled | told | forecasting.tried(current, rows))
    set_status(state, "awaiting_approval")
    takes = forecasting.forecast(rows, dev_rows, speed, told.get("lengths", {}), current)
    return {"plan": artifacts.put_json(current), "forecast": takes | table}


@guarded
def approve(state: State) -> State:
    """A person approves, edits or rejects exactly this version of the plan; an order has approved it already."""
    current = load(state, "plan", TaskPlan)
    ordered = bool(state.get("order"))
    said = APPROVAL if ordered else interrupt(approval.payload(state, current))
    verdict, detail = approval.read_verdict(said, current, state["forecast"])
    reason = ordering.APPROVED if ordered else str(detail or "")
    decided(state, "person", {"verdict": verdict, "version": current.digest}, reason)
    if verdict == "approve" and (refused := forecasting.refusal(current, state["forecast"])):  # asked again
        if ordered:
            raise refused
        decided(state, "trainer", {"refused": refused.to_dict()}, str(refused))
        return {"verdict": "stale", "round": state["round"] + 1}
    if verdict == "edit":
        state = state | {"round": state["round"] + 1}
        try:
            revised = planner.revise(current, detail, evidence.profile(state), evidence.defaults())
        except InvalidRequest as error:  # asked again, and told why
            decided(state, "planner", {"refused": error.to_dict()}, str(error))
            return {"verdict": "stale", "round": state["round"]}
        revised = evidence.with_locked_note(state, revised)
        return {"plan": artifacts.put_json(revised), "verdict": verdict, "round": state["round"]}
    if verdict == "again":
        return {"messages": [str(detail)], "asked": [[]], "verdict": verdict}
    if verdict == "stale":
        return {"verdict": verdict, "round": state["round"] + 1}
    return {"verdict": verdict, "outcome": "rejected"} if verdict == "reject" else {"verdict": verdict}


@guarded
def curate(state: State) -> State:
    """Clean the rows, split them, lock the test rows in the vault."""
    set_status(state, "curating")
    fault_point("node.curating")
    current = load(state, "plan", TaskPlan)
    material = curation.read(state, current)
    findings = curation.find(state, material)
    labels = {row.number: row.label for row in material.rows if row.label is not None}
    kept = curator.decide(findings, current, material.test_rows is not None, labels)
    findings = curation.doubt(state, material, findings, kept)
    decision = curator.decide(findings, current, material.test_rows is not None, labels)
    decided(state, "curator", {"dropped": len(decision.drop)}, " ".join(decision.reasons))
    card = curation.carry_out(state, material, findings, decision, state["forecast"].get("weighed", ()))
    say(state, "progress", phase="curate", card=card.model_dump(mode="json", exclude={"report"}))
    pace, left = forecasting.pace(state["forecast"]), evidence.seconds_left(state)
    frozen = state["forecast"]["frozen_seconds"]
    if searching.wanted(state):
        first = searching.usual(current, card, pace, frozen)
        return {"dataset": card.digest, "usual": artifacts.put_json(first)}
    spec = trainer.first_spec(current, card, seconds_left=left, pace=pace, frozen_seconds=frozen)
    decided(state, "trainer", spec.model_dump(mode="json"), trainer.explain(spec, card))
    return {"dataset": card.digest, "spec": artifacts.put_json(spec)}


@guarded
def train(state: State) -> State:
    """One trial: a job that ends in a sealed bundle, a cancelled one too if it had begun to train.

    When a later one fails, the task goes on with those before it.
    """
    set_status(state, "training")
    fault_point("node.queued")
    spec, before = load(state, "spec", TrainSpec), len(state.get("trials", []))
    try:
        _, result = run_job(state, "train", spec.model_dump(mode="json"), attempt=before)
    except MoatelierError as error:
        if not before or isinstance(error, Cancelled):
            raise
        return {"stop": f"Trial {before + 1} failed ({error.code}): {error.what}"}
    return {"pending": result}


@guarded
def evaluate(state: State) -> State:
    """Score the trial on dev and select rows."""
    set_status(state, "evaluating")
    fault_point("node.evaluating")
    current = load(state, "plan", TaskPlan)
    result = TrainResult.model_validate(state["pending"])
    reports: dict[str, EvalReport] = {}
    for split in ("dev", "select"):
        spec = EvalSpec(
            dataset=state["dataset"], base=current.base.value, bundle=result.bundle, split=split, seed=current.seed
        )
        key, report = run_job(state, "evaluate", spec.model_dump(mode="json"), attempt=len(state.get("trials", [])))
        reports[split] = EvalReport.model_validate(report)
        closing.sign(state, result.bundle, key, reports[split])
    spec_ = load(state, "spec", TrainSpec)
    say(state, "trial", **closing.trial_told(result, reports["select"], current))
    return {"trials": [artifacts.put_json(trainer.Trial(spec=spec_, result=result, **reports))]}


@guarded
def adjust(state: State) -> State:
    """Diagnose the trial; the next one, or the reason to stop."""
    current, trials = load(state, "plan", TaskPlan), evidence.trials(state)
    diagnosis = evaluator.diagnose(trials, current)
    decided(state, "evaluator", diagnosis.model_dump(mode="json"), diagnosis.findings[0].text)
    card, left = evidence.card(state), evidence.seconds_left(state)
    following = trainer.next_spec(current, card, trials, diagnosis, seconds_left=left)
    if isinstance(following, TrainSpec):
        why = trainer.explain(following, card, trials[-1].spec)
        decided(state, "trainer", following.model_dump(mode="json"), why)
        return {"spec": artifacts.put_json(following), "stop": ""}
    decided(state, "trainer", {"stop": True}, following.reason)
    return {"stop": following.reason}


@guarded
def search(state: State) -> State:
    """One move of a search: a leg of a trial is trained, or the best one is handed on to be scored."""
    return searching.advance(state)


@guarded
def gate(state: State) -> State:
    """One look at the locked rows, for the one candidate that is best on select."""
    set_status(state, "gating")
    fault_point("node.gating")
    current, trials = load(state, "plan", TaskPlan), evidence.trials(state)
    candidate = trials[trainer.best(trials, current.goal.value.metric)].result.bundle
    champion = adapters.alias_of(state["project"], current.name)
    spec = GateSpec(
        project=state["project"],
        task=state["task"],
        dataset=state["dataset"],
        base=current.base.value,
        candidate=candidate,
        champion=champion[0] if champion and champion[0] != candidate else None,
        goal=current.goal.value,
        seed=current.seed,
    )
    _, decision = run_job(state, "gate", spec.model_dump(mode="json"))
    return {"decision": artifacts.put_json(GateDecision.model_validate(decision))}


@guarded
def register(state: State) -> State:
    """Register the candidate, and move the task's alias to it if the gate promoted it."""
    set_status(state, "registering")
    fault_point("node.registering")
    current, decision = load(state, "plan", TaskPlan), load(state, "decision", GateDecision)
    registration = router.decide(decision, current, adapters.alias_of(state["project"], current.name))
    decided(state, "router", registration.model_dump(mode="json"), registration.reason)
    outcome = "reached" if decision.reached else "not_reached"
    if (rollout := closing.tried(state, decision, registration)) is not None:
        return {"outcome": outcome, "routing": None, "rollout": rollout}  # it enters `auto` when it takes the alias
    closing.register(state, decision, registration)
    return {"outcome": outcome, "routing": routing.ask(state, decision)}


def route(state: State) -> State:
    """Enter the adapter into the router; whatever goes wrong here undoes nothing of what the gate decided."""
    routing.enter(state)
    return {}


def close(state: State) -> State:
    """Write the report and the end; whatever went wrong before is told here."""
    searching.forget(state)
    closing.close(state)
    prune(tasks.find_task(state["task"]).thread)
    return {}


def _or_close(following: str) -> Any:
    return lambda state: "close" if state.get("error") else following


def _after_plan(state: State) -> str:
    return "close" if state.get("error") else "clarify" if state["questions"] else "forecast"


def _after_approve(state: State) -> str:
    following = {"approve": "curate", "edit": "forecast", "again": "plan", "stale": "approve", "reject": "close"}
    return "close" if state.get("error") else following[state["verdict"]]


def _after_curate(state: State) -> str:
    return "close" if state.get("error") else "search" if state.get("usual") else "train"


def _after_search(state: State) -> str:
    if state.get("error") or state["stop"]:
        return "close" if state.get("error") else "gate"
    return "evaluate" if state["pending"] else "search"


def _after_evaluate(state: State) -> str:
    return "close" if state.get("error") else "search" if state.get("usual") else "adjust"


def _after_train(state: State) -> str:
    return "close" if state.get("error") else "gate" if state.get("stop") else "evaluate"


def _after_adjust(state: State) -> str:
    return "close" if state.get("error") else "gate" if state["stop"] else "train"


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    graph = StateGraph(State)
    for node in (
        profile,
        plan,
        clarify,
        forecast,
        approve,
        curate,
        train,
        evaluate,
        adjust,
        search,
        gate,
        register,
        route,
        close,
    ):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "profile")
    graph.add_conditional_edges("plan", _after_plan, ["clarify", "forecast", "close"])
    graph.add_conditional_edges("approve", _after_approve, ["curate", "forecast", "plan", "approve", "close"])
    graph.add_conditional_edges("curate", _after_curate, ["train", "search", "close"])
    graph.add_conditional_edges("search", _after_search, ["search", "evaluate", "gate", "close"])
    graph.add_conditional_edges("evaluate", _after_evaluate, ["adjust", "search", "close"])
    graph.add_conditional_edges("train", _after_train, ["evaluate", "gate", "close"])
    graph.add_conditional_edges("adjust", _after_adjust, ["train", "gate", "close"])
    straight = ["profile>plan", "clarify>plan", "forecast>approve"]
    for edge in [*straight, "gate>register", "register>route", "route>close"]:
        source, target = edge.split(">")
        graph.add_conditional_edges(source, _or_close(target), [target, "close"])
    graph.add_edge("close", END)
    return graph.compile(checkpointer=saver())
