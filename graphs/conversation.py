r"""The conversation: what a person says becomes a task, and the task's questions reach the person.

    listen -> start -> follow -> ask -> forward -> follow ... -> conclude
                    \-> reply (nothing to start: say what is needed)

A conversation and its task are two threads. This one mirrors the task's pending question or approval as an interrupt
of its own and forwards the answer; while the task works, this thread waits and is busy.
"""

import time
from functools import cache
from typing import Any, get_type_hints

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, create_model

from graphs import closing, jobs
from graphs.checkpoint import prune, saver
from graphs.state import ConversationState
from moatelier.contracts import Event
from moatelier.ids import digest_json
from store import events, tasks

POLL_S = 0.25


def first_input(run: tasks.Run, thread: tasks.Thread) -> dict[str, Any]:
    """The graph's input for a run: the new messages and files."""
    data = run.input or {}
    messages = [{"role": m.get("role", "user"), "content": str(m.get("content", ""))} for m in data.get("messages", [])]
    files = {key: value for key, value in (data.get("files") or {}).items() if value}
    if thread.values and len(tasks.list_runs(run.project, thread.id, limit=2)) == 1:
        return _copied(run, thread, messages, files)
    state: dict[str, Any] = {"run": run.id, "project": run.project, "thread": thread.id, "messages": messages}
    return state | ({"files": files, "fresh_files": True} if files else {"fresh_files": False})


def _copied(
    run: tasks.Run, thread: tasks.Thread, messages: list[dict[str, str]], files: dict[str, str]
) -> dict[str, Any]:
    """The first input of a copy: what the other thread knew comes before it, and belongs to that one's tasks."""
    known = thread.values.get("messages") or []
    state: dict[str, Any] = {"run": run.id, "project": run.project, "thread": thread.id, "taken": len(known)}
    state |= {"messages": [*known, *messages], "files": (thread.values.get("files") or {}) | files}
    return state | {"fresh_files": bool(files)}


def _say(state: ConversationState, node: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    job = f"{state['thread']}/{node}/{state['run']}"
    events.append(
        [
            Event(
                project=state["project"],
                stream=state["thread"],
                task=state.get("task"),
                job=job,
                kind="message",
                body=message,
            )
        ]
    )
    return {"messages": [message]}


def listen(state: ConversationState) -> dict[str, Any]:
    """Log what the person said; how the thread came here need not be kept any more."""
    prune(state["thread"])
    text = state["messages"][-1]["content"] if state.get("messages") else ""
    body = {"role": "user", "content": text}
    events.append(
        [Event(project=state["project"], stream=state["thread"], job=state["run"], kind="message", step=0, body=body)]
    )
    return {"asked": None}


def _unanswered(state: ConversationState) -> list[str]:
    """What the person has said since the last task was started."""
    said = state.get("messages", [])[state.get("taken", 0) :]
    return [message["content"] for message in said if message["role"] == "user" and message["content"].strip()]


def _after_listen(state: ConversationState) -> str:
    # The files of an earlier task stay attached, but a bare "thanks" must not start it again.
    task = state.get("task")
    if (state["fresh_files"] or not task) and _unanswered(state) and state.get("files", {}).get("train"):
        return "start"
    # A run that failed while its task went on left the task without anybody to put its questions to.
    return "follow" if task and not tasks.find_task(task).ended else "reply"


def reply(state: ConversationState) -> dict[str, Any]:
    """Say what is missing to start a task."""
    return _say(
        state,
        "reply",
        "Tell me what the model should learn and attach the data: a CSV or JSONL file, or a zip of pictures "
        "or recordings, as `files.train`, for example "
        '"Train a classifier that predicts intent from message, at least 90 % accuracy."',
    )


def start(state: ConversationState) -> dict[str, Any]:
    """Write the task and its thread, then queue its first run; the same conversation run is the same task."""
    task = f"task-{digest_json([state['thread'], state['run']])[:12]}"
    thread = f"{task}-thread"
    files = state["files"]
    tasks.create_thread(state["project"], id=thread, graph="lifecycle", task=task)
    tasks.create_task(
        state["project"],
        id=task,
        thread=thread,
        conversation=state["thread"],
        request="\n".join(_unanswered(state)),
        train_file=files["train"],
        test_file=files.get("test"),
    )
    tasks.update_thread(state["thread"], task=task)
    run = f"run-{digest_json([thread, 'start'])[:12]}"
    tasks.create_run(state["project"], id=run, thread=thread, input={"task": task})
    jobs.submit_run(run)
    return {"task": task, "taken": len(state["messages"])}


def follow(state: ConversationState) -> dict[str, Any]:
    """Wait until the task asks something new or ends."""
    assert state["task"] is not None
    while True:
        task = tasks.find_task(state["task"])
        if task.ended:
            return {"asked": None}
        thread = tasks.find_thread(task.thread)
        if thread.status == "interrupted" and thread.interrupts:
            if not tasks.find_task(state["task"]).cancel_requested:
                return {"asked": thread.interrupts[0]}
            jobs.answer(thread, {"cancel": True})  # it was cancelled just before it asked
        time.sleep(POLL_S)


def ask(state: ConversationState) -> dict[str, Any]:
    """Put the task's question to the person."""
    assert state["asked"] is not None
    return {"answer": interrupt(state["asked"]["value"])}


def forward(state: ConversationState) -> dict[str, Any]:
    """Hand the answer to the task; its thread is busy from then on."""
    assert state["task"] is not None and state["asked"] is not None
    task = tasks.find_task(state["task"])
    thread = tasks.find_thread(task.thread)
    if thread.interrupts and thread.interrupts[0]["id"] == state["asked"]["id"]:
        jobs.answer(thread, state["answer"])
    return {"asked": None}


def conclude(state: ConversationState) -> dict[str, Any]:
    """Tell the person how the task ended."""
    assert state["task"] is not None
    return _say(state, "conclude", closing.closing_words(tasks.find_task(state["task"])))


def _graph() -> StateGraph[ConversationState]:
    graph = StateGraph(ConversationState)
    for node in (listen, reply, start, follow, ask, forward, conclude):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "listen")
    graph.add_conditional_edges("listen", _after_listen, ["start", "follow", "reply"])
    graph.add_edge("start", "follow")
    graph.add_conditional_edges("follow", lambda s: "ask" if s.get("asked") else "conclude", ["ask", "conclude"])
    graph.add_edge("ask", "forward")
    graph.add_edge("forward", "follow")
    graph.add_edge("reply", END)
    graph.add_edge("conclude", END)
    return graph


@cache
def build() -> Any:
    """The compiled graph on this process's checkpointer."""
    return _graph().compile(checkpointer=saver())


@cache
def drawing() -> dict[str, Any]:
    """The graph's nodes and edges, for who wants to draw it; nothing is run and no checkpointer is opened."""
    return _graph().compile().get_graph().to_json()


@cache
def schema() -> dict[str, Any]:
    """What a conversation's values are, as a JSON schema."""
    hints: dict[str, Any] = {name: (hint, None) for name, hint in get_type_hints(ConversationState).items()}
    made: type[BaseModel] = create_model("Conversation", **hints)
    return made.model_json_schema()
