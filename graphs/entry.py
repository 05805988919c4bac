"""A registered adapter enters the router again, because a person asked for it.

    ask -> enter

Who stayed out at its registration may fit by now: the embedding model is there or another one is set, the neighbour
that it could not be told from is gone. The agent decides as at a registration, on a fresh profile, and its word is
signed as a further record; here a failure is the run's own.
"""

from functools import cache
from typing import Any

from langgraph.graph import END, START, StateGraph

from graphs import routing
from graphs.checkpoint import prune, saver
from graphs.state import EntryState
from moatelier.errors import InvalidRequest, NotFound
from store import adapters, artifacts, tasks


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for its one run."""
    adapter = (run.input or {})["adapter"]
    return {"run": run.id, "project": run.project, "stream": thread.id, "adapter": adapter}


def ask(state: EntryState) -> EntryState:
    """Write down what the routing job shall do, so that a node that runs again asks for the very same job."""
    decision = routing.gate_verdict(state["project"], state["adapter"])
    if decision is None and adapters.get(state["project"], state["adapter"]).manifest.mixing is not None:
        raise InvalidRequest(
            "It was mixed of others and no gate has judged it, so that `auto` does not choose it.",
            where=state["adapter"],
            remedy="Ask it by its name.",
        )
    if decision is None:
        raise NotFound(
            "The record of what the gate decided on this adapter is gone.",
            where=state["adapter"],
            remedy="Restore the store from a backup.",
        )
    asked = routing.spec(state["project"], decision)
    return {"decision": artifacts.put_json(decision), "routing": artifacts.put_json(asked)}


def enter(state: EntryState) -> EntryState:
    """Run the job and carry out what the router agent decides."""
    routing.carry_out(state)
    prune(state["stream"])
    return {}


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    graph = StateGraph(EntryState)
    graph.add_node("ask", ask)
    graph.add_node("enter", enter)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "enter")
    graph.add_edge("enter", END)
    return graph.compile(checkpointer=saver())
