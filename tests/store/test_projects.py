"""Projects and their quotas."""

import io
from datetime import timedelta
from pathlib import Path

import pytest

from moatelier.contracts import AdapterManifest, Event, now
from moatelier.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from moatelier.settings import settings
from store import adapters, audit, datasets, db, events, keys, projects, tasks
from store.tables import TaskRow


def upload(project: str, size: int) -> str:
    return datasets.add_file(project, "a.csv", io.BytesIO(b"x" * size)).id


def trained(
    project: str, job: str, began_s: float, ended_s: float | None, kind: str = "train", task: str | None = None
) -> None:
    """Log a job by how many seconds ago it began and ended."""
    for step, ago in ((0, began_s), (1, ended_s)):
        if ago is not None:
            body = {"job": kind, "key": job, "status": "started" if step == 0 else "done"}
            at = now() - timedelta(seconds=ago)
            event = {
                "project": project,
                "stream": "s",
                "task": task,
                "job": job,
                "kind": "job",
                "step": step,
                "body": body,
                "at": at,
            }
            events.append([Event(**event)])


def test_a_project_is_made_once_and_audited(store: Path) -> None:
    made = projects.create("shop", storage_bytes=5)
    assert (made.id, made.storage_bytes, made.training_seconds) == ("shop", 5, None)
    with pytest.raises(Conflict):
        projects.create("shop")
    keys.create("seen", "k")
    assert [project.id for project in projects.list_projects()] == ["shop", "seen"]
    assert [line.action for line in audit.read("shop")] == ["project.create"]
    with pytest.raises(NotFound):
        projects.get("none")


@pytest.mark.parametrize("id", ["", "Shop", "../x", "a b", "-x", "x" * 64, "a\n"])
def test_an_id_that_is_none(store: Path, id: str) -> None:
    with pytest.raises(InvalidRequest):
        projects.create(id)


def test_storage_is_bounded_and_freed_by_deleting(store: Path, manifest: AdapterManifest) -> None:
    projects.create("shop", storage_bytes=100)
    first = upload("shop", 60)
    with pytest.raises(QuotaExceeded, match="100 bytes; it has 60, and this needs 41"):
        upload("shop", 41)
    upload("other", 1000)
    upload("shop", 40)
    datasets.delete_file("shop", first)
    adapters.register("shop", manifest, "task-1")
    folder = adapters.bundle_path(manifest.digest)
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 55)
    upload("shop", 5)
    with pytest.raises(QuotaExceeded):
        upload("shop", 1)
    assert len(datasets.list_files("shop")) == 2
    assert not list((store / "artifacts").glob(".incoming-*")), "nothing of what was refused is left"


def test_the_settings_hold_where_a_project_has_no_number(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_STORAGE_GB", "0.00000005")
    settings.cache_clear()
    projects.create("free", storage_bytes=0)
    upload("free", 1000)
    with pytest.raises(QuotaExceeded):
        upload("p", 51)


def test_training_time_is_that_of_jobs_in_the_last_thirty_days(store: Path) -> None:
    day = 86_400
    trained("p", "one", 1000, 400)
    trained("p", "two", 100, None)
    trained("p", "old", 31 * day, 31 * day - 5000)
    trained("p", "other-kind", 1000, 0, kind="evaluate")
    trained("elsewhere", "three", 1000, 0)
    assert projects.training_seconds("p") == pytest.approx(700, abs=5)
    projects.need_training_time("p")


def test_a_training_whose_end_nobody_wrote_down_has_ended_with_its_task(store: Path) -> None:
    names = {"thread": "t", "conversation": "c", "request": "r", "train_file": "file-1", "test_file": None}
    tasks.create_task("p", id="task-1", **names)
    tasks.update_task("task-1", status="failed")
    with db.session() as opened:
        opened.get_one(TaskRow, "task-1").ended_at = now() - timedelta(seconds=900)
    trained("p", "one", 1000, None, task="task-1")
    assert projects.training_seconds("p") == pytest.approx(100, abs=5)


def test_who_has_trained_enough_may_not_begin(store: Path) -> None:
    projects.create("p", training_seconds=600)
    trained("p", "one", 1000, 500)
    projects.need_training_time("p")
    trained("p", "two", 500, 390)
    with pytest.raises(QuotaExceeded, match="may train for 0.2 hours"):
        projects.need_training_time("p")
