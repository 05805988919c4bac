"""A worker that plays conversations by the protocol of graphs/worker.py: events and thread state through the store.

input without files      -> it says what is missing
input that says "better" -> a question
input with a train file  -> an approval of a plan
an answer to a question  -> an approval of a plan
approve                  -> progress, a result; edit -> an approval of the changed plan; reject -> rejected
"explode"                -> the run fails;  "hang" -> the run goes on until it is cancelled
"""

import threading
import time
from typing import Any

from moatelier.contracts import Event
from moatelier.ids import digest_json
from store import events, tasks

VERSION = digest_json({"goal": 0.9})


class FakeWorker:
    """Stands in for graphs.jobs and the worker behind it."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.cancelled: set[str] = set()
        self.step_s = 0.02
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def submit_run(self, run_id: str) -> None:
        """As graphs.jobs.submit_run: a second call changes nothing."""
        with self._lock:
            if run_id in self.submitted:
                return
            self.submitted.append(run_id)
        thread = threading.Thread(target=self.play, args=(run_id,))
        self._threads.append(thread)
        thread.start()

    def cancel_run(self, run: tasks.Run) -> None:
        """As graphs.jobs.cancel_run."""
        self.cancelled.add(run.thread)

    def close(self) -> None:
        """Wait for everything that was begun."""
        for thread in self._threads:
            thread.join(30)

    def say(self, run: tasks.Run, kind: str, step: int, /, **body: Any) -> None:
        """Append an event of the run."""
        task = tasks.find_thread(run.thread).task
        event = Event(project=run.project, stream=run.thread, task=task, job=run.id, kind=kind, step=step, body=body)
        events.append([event])
        time.sleep(self.step_s)

    def play(self, run_id: str) -> None:
        """Take a run as far as it goes."""
        run = tasks.update_run(run_id, status="running")
        thread = tasks.find_thread(run.thread)
        if run.input is not None:
            self._listen(run, thread)
        else:
            assert run.command is not None
            self._answered(run, thread, next(iter(run.command["resume"].values())))

    def _listen(self, run: tasks.Run, thread: tasks.Thread) -> None:
        assert run.input is not None
        text = run.input["messages"][-1]["content"]
        self.say(run, "message", 0, role="user", content=text)
        if text == "explode":
            error = {"code": "data_error", "what": "Row 3 is broken.", "where": "row 3", "remedy": "Mend it."}
            self._end(run, thread, "error", error=error)
        elif text == "hang":
            while run.thread not in self.cancelled:
                time.sleep(0.01)
            self._end(run, thread, "success")
        elif "better" in text:
            question = {"field": "goal", "text": "How good is good enough?", "choices": []}
            self._ask(run, thread, {"type": "questions", "task": "task-1", "questions": [question]})
        elif run.input.get("files", {}).get("train"):
            self._propose(run, thread, {"goal": 0.9})
        else:
            self.say(run, "message", 1, role="assistant", content="Attach a file.")
            self._end(run, thread, "success")

    def _answered(self, run: tasks.Run, thread: tasks.Thread, answer: Any) -> None:
        unchanged = {"type": "edit", "edited_action": {"args": {}}}
        decision = answer["decisions"][0] if isinstance(answer, dict) else unchanged
        if decision["type"] == "edit":
            self._propose(run, thread, {"goal": 0.9} | decision["edited_action"]["args"])
            return
        if decision["type"] == "approve":
            for step in range(1, 6):
                self.say(run, "progress", step, phase="train", step=step, steps=5, loss=1 / step)
        status = "reached" if decision["type"] == "approve" else "rejected"
        self.say(run, "result", 0, task="task-1", status=status)
        self._end(run, thread, "success", values={"outcome": status})

    def _propose(self, run: tasks.Run, thread: tasks.Thread, plan: dict[str, Any]) -> None:
        review = {"action_name": "train", "allowed_decisions": ["approve", "edit", "reject"], "args_schema": {}}
        value = {"type": "approval", "task": "task-1", "version": digest_json(plan), "plan": plan, "forecast": {}}
        request = {"name": "train", "args": plan, "description": "Train."}
        value |= {"action_requests": [request], "review_configs": [review]}
        self._ask(run, thread, value)

    def _ask(self, run: tasks.Run, thread: tasks.Thread, value: dict[str, Any]) -> None:
        kind = "approval" if value["type"] == "approval" else "question"
        self.say(run, kind, 0, **value)
        interrupt = {"id": digest_json([run.id, value])[:16], "value": value}
        self._end(run, thread, "interrupted", interrupts=[interrupt])

    def _end(self, run: tasks.Run, thread: tasks.Thread, status: str, **state: Any) -> None:
        settled = {"interrupted": "interrupted", "error": "error"}.get(status, "idle")
        error = state.pop("error", None)
        values = state.get("values", {"messages": [{"role": "user", "content": "..."}]})
        self.say(run, "run", 1, status=status)
        last = events.last_id(run.project, stream=run.thread)
        stands = {"status": settled, "values": values, "interrupts": state.get("interrupts", [])}
        tasks.end_run(run.id, thread=stands, status=status, error=error, last_event=last)
