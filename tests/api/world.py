"""What the routes can be asked about, made anew for each request, and an example of a request for each route.

Whatever is made for a project carries its `SECRET` in every text, so that a test sees where it turns up.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from api.eval_shapes import item_id
from graphs import derivation, eval_runs
from moatelier.contracts import Event as LoggedEvent
from moatelier.contracts import ExportSpec, LessonBody, RetrainPlan, RolloutPlan, RouteDecision, now, read_recipe
from moatelier.ids import new_id
from moatelier.settings import settings
from serving import mixtures
from store import (
    adapters,
    alerts,
    crons,
    datasets,
    events,
    feedback,
    keys,
    lessons,
    monitors,
    recipes,
    responses,
    retrains,
    rollouts,
    stored_evals,
    tasks,
    uploads,
)
from tests.api.conftest import make_adapter
from tests.api.fake_engine import BASE

SECRET = "of-the-project-"
"""Followed by whose it is."""
SAID = [{"role": "user", "content": "where is it"}]


class Things:
    """Makes what a request needs, for one project."""

    def __init__(self, project: str) -> None:
        self.project, self.mark = project, f"{SECRET}{project}"
        self._made = 0

    def file(self) -> str:
        stream = io.BytesIO(f"text,label\n{self.mark},a\n".encode())
        return datasets.add_file(self.project, f"{self.mark}.csv", stream).id

    def thread(self) -> str:
        marked = {"note": self.mark, "graph_id": "conversation"}
        return tasks.create_thread(self.project, graph="conversation", metadata=marked).id

    def run(self, thread: str, *, ended: bool = True) -> str:
        said = {"messages": [{"role": "user", "content": self.mark}]}
        run = tasks.create_run(self.project, thread=thread, input=said)
        if ended:
            tasks.end_run(run.id, thread={"status": "idle", "values": {"messages": [self.mark]}}, status="success")
        return run.id

    def task(self) -> str:
        inner = tasks.create_thread(self.project, graph="lifecycle").id
        names = {"thread": inner, "conversation": self.thread(), "request": self.mark}
        task = tasks.create_task(self.project, id=new_id("task"), **names, train_file="file-1", test_file=None)
        folder = settings().home / "reports" / task.id
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"of": self.mark}))
        body = {"said": self.mark}
        event = {"project": self.project, "stream": names["conversation"], "task": task.id, "job": task.id}
        events.append([LoggedEvent(**event, kind="message", step=0, body=body)])
        return task.id

    def adapter(self) -> str:
        self._made += 1
        seed = 1000 * self._made + (self.project == "other")
        return make_adapter(f"{self.mark}-{self._made}", seed=seed, project=self.project).model_id

    def alias(self) -> str:
        self._made += 1
        alias = f"alias-{self.project}-{self._made}"
        digest = adapters.get(self.project, self.adapter()).digest
        adapters.set_alias(self.project, alias, digest, fence=1, actor=self.mark)
        return alias

    def rollout(self) -> str:
        challenger = self.adapter()
        return rollouts.begin(self.project, self.alias(), challenger, RolloutPlan(), actor=self.mark).id

    def trigger(self) -> str:
        alias = self.alias()
        retrains.put_trigger(self.project, alias, RetrainPlan(), actor=self.mark)
        return alias

    def retrain(self) -> str:
        alias, completion = self.trigger(), self.completion()
        body = LessonBody(messages=({"role": "user", "content": self.mark},), label="a")
        named = {"project": self.project, "completion": completion, "alias": alias, "voice": self.mark}
        lessons.put(lessons.Lesson(**named, body=body, status="pending", retrain=None, at=now(), updated_at=now()))
        lessons.judge(self.project, [completion], "approved", actor=self.mark)
        fired = retrains.fire(self.project, alias, by=self.mark)
        assert fired is not None
        return fired.id

    def alert(self) -> str:
        self._made += 1
        made = alerts.raise_once(self.project, "latency", self.mark, self.mark, {}, about=str(self._made))
        assert made is not None
        return made.id

    def monitor(self) -> str:
        self._made += 1
        model = f"model-{self._made}"
        monitors.put(monitors.get(self.project, model, "a" * 64), last=1, state={"of": self.mark}, reference=None)
        return model

    def recipe(self) -> str:
        self._made += 1
        name = f"desk-{self.project}-{self._made}"
        text = yaml.safe_dump(
            {
                "name": name,
                "layers": [{"proposers": [{"adapter": self.adapter()}, {"base": True}]}],
                "aggregator": {"kind": "vote"},
            }
        )
        recipes.put(self.project, text, mixtures.seal(self.project, read_recipe(text)), actor="test")
        return name

    def export(self, adapter: str) -> str:
        digest = next(found.digest for found in adapters.list_adapters(self.project) if found.model_id == adapter)
        spec = ExportSpec(bundle=digest, format="peft", numbers="f32")
        return derivation.export(self.project, spec).id

    def completion(self) -> str:
        answer = new_id("chatcmpl")
        told = RouteDecision(requested=BASE, chosen=BASE, reason="base", completion=answer).model_dump(mode="json")
        logged = {"project": self.project, "stream": "inference", "job": answer, "kind": feedback.ROUTE}
        events.append([LoggedEvent(**logged, body=told)])
        return answer

    def upload(self) -> str:
        told = {"name": f"{self.mark}.csv", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/csv"}
        return uploads.create(self.project, **told).id

    def part(self, upload: str) -> str:
        return uploads.add_part(self.project, upload, io.BytesIO(b"x,y\n1,2\n\n")).id

    def eval(self) -> str:
        config = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
        kept = {"name": self.mark, "config": config, "criteria": [CHECK], "metadata": {}}
        return stored_evals.create(self.project, id=new_id("eval"), **kept).id

    def eval_run(self, eval: str, *, ended: bool) -> str:
        source = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": self.mark}}]}}
        asked = {"name": self.mark, "source": source, "metadata": {}, "status": "queued"}
        run = stored_evals.create_run(self.project, id=new_id("evalrun"), eval=eval, **asked)
        body = {"item": {"a": self.mark}, "sample": None, "results": []}
        stored_evals.add_item(run, 1, True, body)
        if ended:
            eval_runs.cancel(self.project, eval, run.id)
        return run.id

    def cron(self) -> str:
        said = {"messages": [{"role": "user", "content": self.mark}], "files": {}}
        return crons.create(self.project, thread=None, schedule="0 0 1 1 *", input=said).id

    def response(self) -> str:
        made = new_id("resp")
        items = [{"id": "msg-1", "type": "message", "role": "user", "content": self.mark}]
        body = {"id": made, "object": "response", "output": [], "previous_response_id": None}
        responses.put(self.project, made, previous=None, items=items, body=body)
        return made

    def key(self) -> str:
        keys.create(self.project, self.mark)
        return keys.list_keys(self.project)[-1].id


CHECK = {"type": "string_check", "name": "c", "operation": "eq", "input": "{{ item.a }}", "reference": "x"}
SHARED: Mapping[str, str] = {"assistant_id": "conversation", "namespace": "x", "completion_id": "chatcmpl-1"}
"""Parameters of paths that name the same for all projects."""
ENDLESS = frozenset({"GET /threads/{thread_id}/stream"})
"""Streams without an end: who looks at them takes the first event and leaves."""
Ids = dict[str, str]
Request = dict[str, Any]
"""What httpx takes: json, files, data, headers."""


def _cancels(route: str) -> bool:
    return route.startswith("POST ") and route.endswith(("/cancel", "/runs/{run_id}"))


def _ids(things: Things, route: str) -> Ids:
    """A thing for every parameter of a route's path. A parameter that is not known here needs a line."""
    names = re.findall(r"\{(\w+)", route)
    found: Ids = {}
    for name in names:
        if name == "thread_id":
            found[name] = things.thread()
        elif name == "run_id" and "eval_id" in found:
            found[name] = things.eval_run(found["eval_id"], ended=not _cancels(route))
        elif name == "item_id":
            found[name] = item_id(found["run_id"], 1)
        elif name == "checkpoint_id":
            found[name] = things.run(found["thread_id"])
        elif name in SHARED:
            found[name] = SHARED[name]
        elif name == "run_id" and "thread_id" in found:
            found[name] = things.run(found["thread_id"], ended=not route.endswith("/cancel"))
        elif name == "run_id":
            found[name] = things.export(found.get("name") or things.adapter())
        elif name == "name" and "/report/" in route:
            found[name] = "report.json"
        elif name == "name" and "/v1/moa" in route:
            found[name] = things.recipe()
        elif name == "model" and "/v1/monitors" in route:
            found[name] = things.monitor()
        else:
            made: Callable[[], str] = {
                "file_id": things.file,
                "task_id": things.task,
                "name": things.adapter,
                "model": things.adapter,
                "key_id": things.key,
                "job_id": things.task,
                "upload_id": things.upload,
                "eval_id": things.eval,
                "cron_id": things.cron,
                "response_id": things.response,
                "rollout_id": things.rollout,
                "alias": things.trigger,
                "retrain_id": things.retrain,
                "alert_id": things.alert,
            }[name]
            found[name] = made()
    return found


def _heard(things: Things) -> Request:
    return {"files": {"file": ("a.wav", b"RIFF")}, "data": {"model": things.adapter()}}


def _mixed(things: Things) -> Request:
    things._made += 1
    return {
        "json": {
            "adapters": [things.adapter(), things.adapter()],
            "weights": [0.5, 0.5],
            "name": f"mixed-{things._made}",
        }
    }


def _asked(things: Things) -> Request:
    said = {"messages": SAID, "files": {"train": things.file()}}
    return {"json": {"assistant_id": "moatelier", "input": said}}


EXAMPLES: Mapping[str, Callable[[Things], Request]] = {
    "POST /v1/chat/completions": lambda things: {"json": {"model": things.adapter(), "messages": SAID}},
    "POST /v1/classify": lambda things: {"json": {"model": things.adapter(), "input": "x"}},
    "POST /v1/embeddings": lambda things: {"json": {"model": things.adapter(), "input": "x"}},
    "POST /v1/audio/transcriptions": _heard,
    "POST /v1/audio/translations": _heard,
    "POST /v1/feedback": lambda things: {"json": {"completion": things.completion(), "rating": 1}},
    "POST /v1/files": lambda _: {"files": {"file": ("a.csv", b"x,y\n1,2\n")}, "data": {"purpose": "fine-tune"}},
    "POST /threads/{thread_id}/runs": _asked,
    "POST /threads/{thread_id}/runs/stream": _asked,
    "POST /threads/{thread_id}/runs/wait": _asked,
    "PATCH /threads/{thread_id}": lambda _: {"json": {"metadata": {"a": 1}}},
    "POST /adapters/mix": _mixed,
    "POST /adapters/{name:path}/export": lambda _: {"json": {"format": "peft"}},
    "POST /v1/moa": lambda things: {
        "json": {
            "yaml": yaml.safe_dump(
                {
                    "name": f"made-{new_id('x')[-6:]}",
                    "layers": [{"proposers": [{"adapter": things.adapter()}, {"base": True}]}],
                    "aggregator": {"kind": "vote"},
                }
            )
        }
    },
    "POST /v1/moa/{name}/try": lambda _: {"json": {"messages": SAID}},
    "POST /v1/rollouts": lambda things: {"json": {"alias": things.alias(), "challenger": things.adapter()}},
    "POST /v1/lessons/approve": lambda things: {"json": {"alias": things.alias()}},
    "POST /v1/lessons/reject": lambda things: {"json": {"alias": things.alias()}},
    "POST /v1/retrains": lambda things: {"json": {"alias": things.trigger()}},
    "POST /v1/completions": lambda things: {"json": {"model": things.adapter(), "prompt": "x"}},
    "POST /v1/responses": lambda things: {"json": {"model": things.adapter(), "input": "x"}},
    "POST /v1/fine_tuning/jobs": lambda things: {"json": {"model": BASE, "training_file": things.file()}},
    "POST /v1/uploads": lambda _: {
        "json": {"filename": "a.csv", "purpose": "fine-tune", "bytes": 9, "mime_type": "text/csv"}
    },
    "POST /v1/uploads/{upload_id}/parts": lambda _: {"files": {"data": ("a", b"x,y\n1,2\n\n")}},
    "POST /v1/uploads/{upload_id}/complete": lambda _: {"json": {"part_ids": ["part-none"]}},
    "POST /v1/fine_tuning/alpha/graders/validate": lambda _: {"json": {"grader": CHECK}},
    "POST /v1/fine_tuning/alpha/graders/run": lambda _: {"json": {"grader": CHECK, "model_sample": "x"}},
    "POST /imports/openai/files/{file_id}": lambda _: {"files": {"file": ("a.csv", b"x,y\n1,2\n")}},
    "POST /v1/evals": lambda _: {
        "json": {
            "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
            "testing_criteria": [CHECK],
        }
    },
    "POST /v1/evals/{eval_id}/runs": lambda _: {
        "json": {
            "data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "x"}}]}}
        }
    },
    "POST /runs": lambda _: {"json": {"assistant_id": "conversation", "input": {"messages": SAID}}},
    "POST /runs/stream": lambda _: {"json": {"assistant_id": "conversation", "input": {"messages": SAID}}},
    "POST /runs/wait": lambda _: {"json": {"assistant_id": "conversation", "input": {"messages": SAID}}},
    "POST /runs/batch": lambda _: {"json": [{"assistant_id": "conversation", "input": {"messages": SAID}}]},
    "POST /runs/cancel": lambda _: {"json": {"run_ids": []}},
    "POST /runs/crons": lambda _: {
        "json": {"assistant_id": "conversation", "schedule": "0 0 1 1 *", "input": {"messages": SAID}}
    },
    "POST /threads/{thread_id}/runs/crons": lambda _: {
        "json": {"assistant_id": "conversation", "schedule": "0 0 1 1 *", "input": {"messages": SAID}}
    },
    "POST /threads/prune": lambda things: {"json": {"thread_ids": [things.thread()]}},
    "POST /assistants/{assistant_id}/latest": lambda _: {"json": {"version": 1}},
    "POST /v1/admin/keys": lambda _: {"json": {"name": "made", "scopes": ["infer"]}},
    "POST /v1/admin/projects": lambda _: {"json": {"id": new_id("p").lower()}},
}
"""Requests that need more than their path; of the others POST and PATCH send an empty object."""


def example(route: str, things: Things) -> tuple[str, str, Request, Ids]:
    """A request to a route about these things: method, path, what httpx takes, and the ids in the path."""
    method, template = route.split(" ", 1)
    ids = _ids(things, route)
    path = re.sub(r"\{(\w+)(:path)?\}", lambda match: ids[match[1]], template)
    plain: Request = {"json": {}} if method in ("POST", "PATCH", "PUT") else {}
    request = EXAMPLES[route](things) if route in EXAMPLES else plain
    return method, path, request, ids


def hollow(route: str) -> tuple[str, str, Request, Ids]:
    """The same about nothing."""
    method, template = route.split(" ", 1)
    return method, re.sub(r"\{(\w+)(:path)?\}", "none", template), {}, {}
