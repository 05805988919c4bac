"""Jobs and evals of the OpenAI dialect on a real service: held, killed, and carried to their ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI

from tests.conformance.serving import chat_file
from tests.e2e.harness import Service, command_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("jobs"))
    made.pulled.append("tiny")  # the eval's test asks the base, whether or not a job has fetched it
    with made as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    key = (service.home / "keys" / "admin.key").read_text().strip()
    with OpenAI(base_url=f"{service.url}/v1", api_key=key) as made:
        yield made


def start(client: OpenAI, path: Path, **asked: Any) -> str:
    file = client.files.create(file=path, purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="tiny", training_file=file.id, **asked).id


def end(client: OpenAI, job: str) -> Any:
    def ended() -> Any:
        found = client.fine_tuning.jobs.retrieve(job)
        return found if found.status in ENDED else None

    return wait_for(f"the end of {job}", ended, 200)


def epochs(number: int) -> dict[str, Any]:
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": number}}}}


def trainings(service: Service) -> list[psutil.Process]:
    return [process for process in service.family() if "training.run" in command_of(process)]


def test_a_paused_job_gives_up_its_place_and_goes_on_from_where_it_was(
    service: Service, client: OpenAI, tmp_path: Path
) -> None:
    held = start(client, chat_file(tmp_path / "chat.jsonl"), suffix="held", **epochs(50))
    metrics = lambda: [e for e in client.fine_tuning.jobs.list_events(held) if e.type == "metrics"]  # noqa: E731
    wait_for("the first steps", metrics)
    client.fine_tuning.jobs.pause(held)
    wait_for("the training to leave", lambda: not trainings(service))
    assert client.fine_tuning.jobs.retrieve(held).status == "paused"
    quick = end(client, start(client, chat_file(tmp_path / "other.jsonl", 50), suffix="quick", **epochs(1)))
    assert quick.status == "succeeded", "its place was free"
    assert client.fine_tuning.jobs.retrieve(held).status == "paused"
    client.fine_tuning.jobs.resume(held)
    done = end(client, held)
    assert done.status == "succeeded", done.error
    told = service.call("GET", f"/tasks/{held}/events?limit=500")["data"]
    assert [event["step"] > 0 for event in told if event["kind"] == "resumed"] == [True]
    steps = [event["step"] for event in told if event["kind"] == "progress" and event["body"].get("phase") == "train"]
    assert steps == sorted(set(steps)), "no step was told twice"
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model


def test_the_run_of_an_eval_goes_on_after_its_worker_was_killed(service: Service, client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}}
    check = {"type": "string_check", "name": "said", "operation": "ne", "input": "{{sample.output_text}}"}
    made = client.evals.create(
        data_source_config={"type": "custom", "item_schema": schema},
        testing_criteria=[check | {"reference": "{{item.word}}"}],  # type: ignore[list-item]
    )
    rows = [{"item": {"word": f"where is parcel {number}"}} for number in range(80)]
    asked = {"type": "template", "template": [{"role": "user", "content": "{{item.word}}"}]}
    source = {"type": "completions", "model": "tiny", "input_messages": asked}
    source |= {"source": {"type": "file_content", "content": rows}, "sampling_params": {"max_completion_tokens": 4}}
    run = client.evals.runs.create(made.id, data_source=source)  # type: ignore[arg-type]
    look = lambda: client.evals.runs.retrieve(run.id, eval_id=made.id)  # noqa: E731
    wait_for("the first items", lambda: look().result_counts.total > 3)
    service.kill(service.pid("worker"))
    assert look().status == "in_progress", "it was killed too late"
    done = wait_for("the run's end", lambda: found if (found := look()).status == "completed" else None)
    assert done.result_counts.total == 80 and done.result_counts.errored == 0
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=100))
    assert [item.datasource_item_id for item in items] == list(range(80))
