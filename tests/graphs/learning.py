"""A champion with the task that made it, and people who judge its answers; nothing is trained."""

from io import BytesIO
from itertools import count
from typing import Any

from moatelier.contracts import Budget, Columns, Event, Feedback, Goal, RouteDecision, Sourced, TaskPlan, now
from store import adapters, datasets, events, exchanges, feedback, tasks
from store.exchanges import Exchange
from tests.api.conftest import make_adapter

ALIAS = "support"
ROWS = "message,intent\nwhere is my parcel,a\ngive me my money,b\n"
COUNT = count()


def sourced(value: Any) -> Any:
    return Sourced[Any](value=value, source="user", confidence=1.0, reason="said")


def plan(file: str, name: str = ALIAS, kind: str = "classification") -> TaskPlan:
    fields = {
        "modality": "text",
        "kind": kind,
        "columns": Columns(input="message", target="intent"),
        "goal": Goal(metric="accuracy", target=0.5),
        "budget": Budget(seconds=60, trials=1),
        "method": "lora",
        "base": "smollm2-135m-instruct",
        "private": "redact",
        "too_long": "refuse",
    }
    told = {key: sourced(value).model_dump(mode="json") for key, value in fields.items()}
    return TaskPlan.model_validate({"name": name, "train_file": file, **told})


def champion(rows: str = ROWS, name: str = "support.csv", kind: str = "classification") -> adapters.AdapterRecord:
    """An adapter under `ALIAS`, its task, and the file that it was trained on."""
    file = datasets.add_file("default", name, BytesIO(rows.encode())).id
    thread = tasks.create_thread("default", graph="lifecycle", task="task-1").id
    named = {"thread": thread, "conversation": thread, "request": "words", "train_file": file, "test_file": None}
    tasks.create_task("default", id="task-1", **named)
    tasks.update_task("task-1", plan=plan(file, kind=kind), status="reached", name=ALIAS)
    record = make_adapter(seed=1)
    adapters.set_alias("default", ALIAS, record.digest, fence=1, actor="task-1")
    return adapters.get("default", ALIAS)


def answered(record: adapters.AdapterRecord, words: str, answer: str = "a", subject: str | None = None) -> str:
    """Somebody asks and is answered; the words are kept."""
    id = f"c-{next(COUNT)}"
    told = RouteDecision(requested=ALIAS, chosen=record.digest, reason="alias", completion=id, subject=subject)
    logged = {"project": "default", "stream": "inference", "job": id, "kind": "route"}
    events.append([Event(**logged, body=told.model_dump(mode="json"))])
    turns = [{"role": "user", "content": words}]
    exchanges.append([Exchange(project="default", completion=id, messages=turns, answer=answer, at=now())])
    return id


def judge(completion: str, key: str = "", **said: Any) -> None:
    rating = said.get("rating")
    reward = None if rating is None else int(rating > 0)
    feedback.put("default", key or f"key-{next(COUNT)}", Feedback(completion=completion, **said), reward)
