"""Our own resources: tasks with their events and reports, adapters with their bundles."""

import io
import json
import zipfile
from collections.abc import Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from graphs import jobs
from moatelier.contracts import Event, Goal, LedgerEntry
from moatelier.ids import canonical_json, digest_bytes
from modalities.bundle import open_bundle
from store import adapters, events, keys, ledger, records, tasks
from tests.api.conftest import Service, make_adapter
from tests.api.running import wait_until


def make_task(number: int, project: str = "default") -> tasks.Task:
    names = {"thread": f"inner-{number}", "conversation": f"thread-{number}", "request": f"Request {number}"}
    return tasks.create_task(project, id=f"task-{number}", **names, train_file="file-1", test_file=None)


def say(step: int, **body: object) -> None:
    event = Event(project="default", stream="thread-1", task="task-1", job="job", kind="progress", step=step, body=body)
    events.append([event])


def sse(answer: httpx.Response) -> Iterator[dict[str, str]]:
    for block in answer.read().decode().split("\n\n"):
        fields = [line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")]
        if fields:
            yield {name: value for name, value in fields}


def test_tasks_come_in_pages_newest_first(http: httpx.Client) -> None:
    for number in range(3):
        make_task(number)
    make_task(9, project="other")
    first = http.get("/tasks", params={"limit": 2}).json()
    assert [task["id"] for task in first["data"]] == ["task-2", "task-1"]
    assert first["has_more"] and first["last_id"] == "task-1"
    rest = http.get("/tasks", params={"after": first["last_id"]}).json()
    assert [task["id"] for task in rest["data"]] == ["task-0"] and not rest["has_more"]
    one = http.get("/tasks/task-1").json()
    assert (one["status"], one["request"], one["report"], one["conversation"]) == (
        "planning",
        "Request 1",
        False,
        "thread-1",
    )
    assert http.get("/tasks/task-9").status_code == 404


def test_a_tasks_ledger_tells_symptom_action_and_effect(http: httpx.Client) -> None:
    make_task(1)
    make_task(9, project="other")
    told = {"symptom": "underfit", "confidence": 0.7, "text": "Not learnt to the end.", "ids": ("job:a",)}
    done = {"level": "recipe", "action": "more_epochs", "change": "Changed: epochs 3.0 -> 6.0.", "spec": "5" * 64}
    ledger.write("default", LedgerEntry(task="task-1", trial=1, **told, **done))
    ledger.complete(
        "default", "task-1", 1, status="measured", measure="select accuracy", before=0.5, after=0.75, credit=1
    )
    [line] = http.get("/tasks/task-1/ledger").json()["data"]
    assert (line["symptom"], line["action"], line["effect"], line["ids"]) == (
        "underfit",
        "more_epochs",
        0.25,
        ["job:a"],
    )
    assert http.get("/tasks/task-9/ledger").status_code == 404


def test_cancelling_a_task(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "cancel_task", tasks.request_cancel)
    make_task(1)
    assert http.post("/tasks/task-1/cancel").json()["cancel_requested"] is True
    tasks.update_task("task-1", status="cancelled")
    again = http.post("/tasks/task-1/cancel")
    assert again.status_code == 400 and again.json()["error"]["code"] == "conflict"
    assert again.headers["x-should-retry"] == "false"


def test_events_as_a_page_and_as_a_stream_that_ends_with_the_task(http: httpx.Client) -> None:
    make_task(1)
    for step in range(3):
        say(step, loss=1.0 / (step + 1))
    page = http.get("/tasks/task-1/events", params={"limit": 2}).json()
    assert [event["step"] for event in page["data"]] == [0, 1] and page["has_more"]
    assert page["data"][0]["body"] == {"loss": 1.0} and page["data"][0]["kind"] == "progress"
    after = page["last_id"]
    assert [event["step"] for event in http.get(f"/tasks/task-1/events?after={after}").json()["data"]] == [2]
    with http.stream("GET", "/tasks/task-1/events", headers={"accept": "text/event-stream"}) as answer:
        say(3)
        tasks.update_task("task-1", status="failed", error={"code": "job_failed", "what": "x"})
        parts = list(sse(answer))
    assert [part["event"] for part in parts] == ["progress"] * 4 + ["end"]
    headers = {"accept": "text/event-stream", "last-event-id": parts[2]["id"]}
    rest = list(sse(http.get("/tasks/task-1/events", headers=headers)))
    assert [part["event"] for part in rest] == ["progress", "end"]


def test_a_report_is_served_whole_and_by_file(http: httpx.Client, service: Service) -> None:
    make_task(1)
    missing = http.get("/tasks/task-1/report")
    assert missing.status_code == 404 and "when the task ends" in missing.json()["error"]["message"]
    folder = service.home / "reports" / "task-1"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Report</h1>")
    (folder / "report.json").write_text("{}")
    assert http.get("/tasks/task-1").json()["report"] is True
    page = http.get("/tasks/task-1/report/index.html")
    assert page.headers["content-type"].startswith("text/html") and "Report" in page.text
    archive = zipfile.ZipFile(io.BytesIO(http.get("/tasks/task-1/report").content))
    assert archive.namelist() == ["task-1-report/index.html", "task-1-report/report.json"]
    (service.home / "secret").write_text("x")
    for path in ("..%2F..%2Fsecret", "%2e%2e/secret", "none.html", "../../keys/admin.key"):
        assert http.get(f"/tasks/task-1/report/{path}").status_code == 404
    assert "index.html, report.json" in http.get("/tasks/task-1/report/none").json()["error"]["message"]


def test_adapters_are_listed_and_found_by_every_name(http: httpx.Client) -> None:
    record = make_adapter()
    adapters.set_alias("default", "support", record.digest, fence=1, actor="test")
    (listed,) = http.get("/adapters").json()["data"]
    assert (listed["id"], listed["digest"], listed["aliases"]) == (record.model_id, record.digest, ["support"])
    assert listed["manifest"]["base"] == record.base
    for name in ("support", record.model_id, record.digest):
        found = http.get(f"/adapters/{name}").json()
        assert found["digest"] == record.digest and found["records"] == []
    other = {"x-api-key": keys.create("other", "test"), "authorization": ""}
    assert http.get("/adapters", headers=other).json()["data"] == []


def test_an_export_holds_the_sealed_bundle_and_a_changed_byte_is_refused(http: httpx.Client, service: Service) -> None:
    record = make_adapter()
    records.sign("default", "router_profile", record.digest, "task-1", Goal(metric="accuracy", target=0.9))
    answer = http.get(f"/adapters/{record.model_id}/export")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    name = f"support-{record.digest[:8]}"
    assert sorted(archive.namelist()) == [
        f"{name}/{file}"
        for file in ("adapter_config.json", "adapter_model.safetensors", "manifest.json", "records.json")
    ]
    assert archive.read(f"{name}/adapter_model.safetensors") == b"weights 0"
    archive.extractall(service.home / "unpacked")  # what was taken away is the bundle again
    manifest = record.manifest
    digests = {"base_digest": manifest.base_digest, "template_digest": manifest.template_digest}
    assert open_bundle(service.home / "unpacked" / name, **digests) == manifest
    [signed] = json.loads(archive.read(f"{name}/records.json"))
    told = {key: signed[key] for key in ("project", "kind", "key", "subject", "body", "created_at")}
    assert digest_bytes(canonical_json(told)) == signed["digest"]
    signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed["signer"]))
    signer.verify(bytes.fromhex(signed["signature"]), canonical_json(told))
    weights = adapters.bundle_path(record.digest) / "adapter_model.safetensors"
    weights.write_bytes(b"weights 9")
    refused = http.get(f"/adapters/{record.model_id}/export")
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "integrity_error"
    assert refused.headers["x-should-retry"] == "false"


def test_archives_are_not_left_behind(http: httpx.Client, monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    folder = service.home / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    http.get(f"/adapters/{make_adapter().digest}/export")
    wait_until(lambda: list(folder.iterdir()) == [])


def test_mixing_and_exporting_start_one_run_a_wish(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "submit_run", lambda _: None)
    first, second = (make_adapter(f"task-{seed}", seed=seed) for seed in (0, 1))
    body = {"adapters": [first.model_id, second.digest], "weights": [0.5, 0.5], "method": "cat", "name": "both"}
    asked = http.post("/adapters/mix", json=body)
    assert asked.status_code == 202 and asked.json()["object"] == "adapter.mix" and asked.json()["result"] is None
    assert http.post("/adapters/mix", json=body).json()["run"] == asked.json()["run"]
    assert http.get(f"/adapters/mix/{asked.json()['run']}").json() == asked.json()
    written = http.post(f"/adapters/{first.model_id}/export", json={"format": "gguf"})
    assert written.status_code == 202 and written.json()["adapter"] == first.digest
    run = written.json()["run"]
    assert http.get(f"/adapters/{first.digest}/export/{run}").json()["status"] == "pending"
    assert http.get(f"/adapters/{second.digest}/export/{run}").status_code == 404
    early = http.get(f"/adapters/{first.digest}/export/{run}/files").json()["error"]
    assert early["code"] == "conflict" and "pending" in early["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/adapters/mix", {"adapters": ["a"], "weights": [1.0], "name": "x"}, 400),
        ("/adapters/mix", {"adapters": ["a", "b"], "weights": [1.0, 1.0], "name": "x"}, 404),
        ("/adapters/mix", {"adapters": ["a", "b"], "weights": [1.0, 1.0], "name": "x", "method": "stir"}, 400),
        ("/adapters/mix", {"adapters": ["a", "b"], "weights": [1.0, 1.0], "name": "x", "density": 2.0}, 400),
        ("/adapters/none/export", {"format": "gguf"}, 404),
        ("/adapters/none/export", {"format": "tarot"}, 400),
        ("/adapters/none/export", {}, 400),
    ],
)
def test_what_cannot_be_meant_is_refused(http: httpx.Client, path: str, body: dict[str, object], status: int) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status and answer.json()["error"]["message"]
