"""`fine_tuning.jobs` by the openai package: a job is a task, and a task is a job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from moatelier.errors import DataError
from store import tasks
from tests import fakes
from tests.conformance.serving import Held, Whole, asked_file, chat_file, pairs_file, until

ENDED = ("succeeded", "failed", "cancelled")


def upload(whole: Whole, path: Path) -> str:
    return whole.client.files.create(file=path, purpose="fine-tune").id


def ended(whole: Whole, job: str) -> Any:
    return until(lambda: whole.client.fine_tuning.jobs.retrieve(job), lambda found: found.status in ENDED)


def trained(whole: Whole) -> dict[str, Any]:
    return next(spec for kind, spec in whole.jobs.ran if kind == "train")


def test_a_supervised_job_is_a_task_that_asks_nobody_and_ends_as_a_served_model(whole: Whole, tmp_path: Path) -> None:
    job = whole.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(whole, chat_file(tmp_path / "chat.jsonl")),
        suffix="depot",
        seed=7,
        metadata={"team": "post"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}},
        },
    )
    assert job.status in ("validating_files", "queued", "running") and job.fine_tuned_model is None
    assert job.hyperparameters.n_epochs == 2 and job.metadata == {"team": "post"} and job.seed == 7
    done = ended(whole, job.id)
    assert done.status == "succeeded" and done.error is None and done.finished_at >= done.created_at
    assert done.fine_tuned_model.startswith("ft:tiny:depot:")
    assert whole.client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    said = [{"role": "user", "content": "hello"}]
    answer = whole.client.chat.completions.create(model=done.fine_tuned_model, messages=said)  # type: ignore[arg-type]
    assert answer.choices[0].message.content
    spec = trained(whole)
    assert (spec["epochs"], spec["batch_rows"], spec["seed"]) == (2, 4, 7)
    assert spec["learning_rate"] == pytest.approx(5e-4 / 2)
    assert tasks.get_task("default", job.id).status == "reached"
    (results,) = done.result_files
    assert whole.client.files.retrieve(results).purpose == "fine-tune-results"
    assert whole.client.files.content(results).text.splitlines()[:2] == ["trial,step,train_loss,valid_loss", "1,1,2.0,"]


def test_a_task_of_a_conversation_is_a_job_and_can_be_cancelled_as_one(whole: Whole, tmp_path: Path) -> None:
    file = upload(whole, fakes.support_csv(tmp_path / "support.csv"))
    whole.player.say("Train a classifier that predicts intent from message, at least 80% accuracy", train=file)
    whole.player.pending()
    (job,) = whole.client.fine_tuning.jobs.list().data
    assert (job.status, job.training_file, job.model) == ("queued", file, "tiny")
    cancelled = whole.client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.id == job.id
    assert ended(whole, job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        whole.client.fine_tuning.jobs.cancel(job.id)


def test_pairs_are_learnt_by_dpo_with_its_beta(whole: Whole, tmp_path: Path) -> None:
    job = whole.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(whole, pairs_file(tmp_path / "pairs.jsonl")),
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
    )
    done = ended(whole, job.id)
    assert done.status == "succeeded", done.error
    assert (trained(whole)["method"], trained(whole)["beta"]) == ("dpo", 0.2)
    assert done.method.dpo.hyperparameters.beta == 0.2


def test_reinforcement_is_rewarded_by_the_grader(whole: Whole, tmp_path: Path) -> None:
    grader = {"type": "string_check", "name": "sum", "operation": "ilike"}
    grader |= {"input": "{{sample.output_text}}", "reference": "{{ item.sum }}"}
    job = whole.client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(whole, asked_file(tmp_path / "asked.jsonl")),
        method={"type": "reinforcement", "reinforcement": {"grader": grader}},  # type: ignore[typeddict-item]
    )
    done = ended(whole, job.id)
    assert done.status == "succeeded", done.error
    assert trained(whole)["method"] == "grpo"
    assert trained(whole)["rewards"][0] | {"kind": "string_check", "operation": "ilike"} == trained(whole)["rewards"][0]


def test_events_and_checkpoints_tell_of_the_training_newest_first(whole: Whole, tmp_path: Path) -> None:
    file = upload(whole, chat_file(tmp_path / "chat.jsonl"))
    job = whole.client.fine_tuning.jobs.create(model="tiny", training_file=file)
    done = ended(whole, job.id)
    told = list(whole.client.fine_tuning.jobs.list_events(job.id, limit=4))  # several pages
    numbers = [int(event.id.removeprefix("ftevent-")) for event in told]
    assert numbers == sorted(set(numbers), reverse=True) and len(told) > 8
    assert "ended" in told[0].message and {event.type for event in told} == {"message"}
    (checkpoint,) = whole.client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert (checkpoint.step_number, checkpoint.metrics.train_loss, checkpoint.metrics.valid_loss) == (10, 0.2, 0.2)


def test_a_held_job_goes_on_when_it_is_resumed(whole: Whole, tmp_path: Path) -> None:
    training = Held(whole.jobs, "train")
    lenient = whole.lenient  # the package's types do not know `paused`, which the wire does
    file = upload(whole, chat_file(tmp_path / "chat.jsonl"))
    job = whole.client.fine_tuning.jobs.create(model="tiny", training_file=file).id
    assert training.begun.wait(60)
    assert lenient.fine_tuning.jobs.pause(job).status == "paused"
    training.let_go()
    until(lambda: [kind for kind, _ in whole.jobs.ran], lambda ran: "train" in ran)
    assert lenient.fine_tuning.jobs.retrieve(job).status == "paused"
    assert lenient.fine_tuning.jobs.resume(job).status == "running"
    assert ended(whole, job).status == "succeeded"
    with pytest.raises(openai.BadRequestError):
        lenient.fine_tuning.jobs.resume(job)
    with pytest.raises(openai.BadRequestError):
        lenient.fine_tuning.jobs.pause(job)


def test_a_cancelled_job_cannot_be_cancelled_again(whole: Whole, tmp_path: Path) -> None:
    training = Held(whole.jobs, "train")
    file = upload(whole, chat_file(tmp_path / "chat.jsonl"))
    job = whole.client.fine_tuning.jobs.create(model="tiny", training_file=file).id
    assert training.begun.wait(60)
    assert whole.client.fine_tuning.jobs.cancel(job).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        whole.client.fine_tuning.jobs.cancel(job)
    training.let_go()
    until(lambda: tasks.get_task("default", job), lambda task: task.ended)
    assert whole.client.fine_tuning.jobs.retrieve(job).status == "cancelled"


def test_a_file_that_cannot_be_learnt_from_fails_the_job_with_row_and_remedy(whole: Whole, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(chat_file(tmp_path / "chat.jsonl").read_text() + '{"messages": [{"role": "user"}]}\n')
    file = upload(whole, broken)
    done = ended(whole, whole.client.fine_tuning.jobs.create(model="tiny", training_file=file).id)
    assert done.status == "failed" and done.fine_tuned_model is None
    assert (done.error.code, done.error.param) == (DataError.code, "training_file")
    assert "row 61" in done.error.message and "content" in done.error.message


def test_pairs_need_the_method_and_the_method_pairs(whole: Whole, tmp_path: Path) -> None:
    chat, pairs = chat_file(tmp_path / "chat.jsonl"), pairs_file(tmp_path / "pairs.jsonl")
    create: Callable[..., Any] = whole.client.fine_tuning.jobs.create
    one = create(model="tiny", training_file=upload(whole, chat), method={"type": "dpo"})
    other = create(model="tiny", training_file=upload(whole, pairs))
    assert "no pairs" in ended(whole, one.id).error.message
    assert "dpo" in ended(whole, other.id).error.message


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"model": "gpt-4o-mini"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "auto"}, "name"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"moatelier_goal": "as good as it gets"}}, "goal"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}}, "method"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(whole: Whole, tmp_path: Path, changed: Any, param: str) -> None:
    asked = {"model": "tiny", "training_file": upload(whole, chat_file(tmp_path / "chat.jsonl"))} | changed
    with pytest.raises(openai.BadRequestError) as refused:
        whole.client.fine_tuning.jobs.create(**asked)
    assert str(refused.value.param).startswith(param)
    assert whole.client.fine_tuning.jobs.list().data == []


def test_jobs_are_listed_in_pages_and_by_metadata(whole: Whole, tmp_path: Path) -> None:
    file = upload(whole, chat_file(tmp_path / "chat.jsonl"))
    create: Callable[..., Any] = whole.client.fine_tuning.jobs.create
    made = [create(model="tiny", training_file=file, metadata={"n": str(number)}).id for number in range(3)]
    assert [job.id for job in whole.client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    (found,) = whole.client.fine_tuning.jobs.list(metadata={"n": "1"}).data
    assert found.id == made[1]
    for job in made:
        ended(whole, job)


def test_a_goal_in_the_metadata_is_judged_as_in_a_conversation(whole: Whole, tmp_path: Path) -> None:
    file = upload(whole, chat_file(tmp_path / "chat.jsonl"))
    goal = {"moatelier_goal": "99% exact match", "moatelier_budget": "10 minutes, 1 trial"}
    job = whole.client.fine_tuning.jobs.create(model="tiny", training_file=file, metadata=goal)
    done = ended(whole, job.id)
    task = tasks.get_task("default", job.id)
    assert task.status == "not_reached" and task.plan and task.plan.goal.value.target == 0.99
    assert task.plan.budget.value.seconds == 600
    assert done.status == "succeeded" and done.fine_tuned_model, "there is a model, though it keeps no promise"
