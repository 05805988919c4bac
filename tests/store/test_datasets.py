"""Uploads and dataset cards."""

import io
from pathlib import Path

import pytest

from moatelier.contracts import DatasetCard
from moatelier.errors import Conflict, DataError, IntegrityError, NotFound
from moatelier.ids import digest_bytes
from moatelier.settings import settings
from store import artifacts, datasets, db, frozen, tasks


def _upload(data: bytes = b"message,intent\n", name: str = "support.csv", project: str = "p") -> datasets.File:
    return datasets.add_file(project, name, io.BytesIO(data))


def test_a_file_comes_back(store: Path) -> None:
    file = _upload(b"a,b\n1,2\n")
    assert file.id.startswith("file-") and (file.bytes, file.purpose) == (8, "fine-tune")
    assert file.sha256 == digest_bytes(b"a,b\n1,2\n")
    assert datasets.get_file("p", file.id) == file
    assert datasets.file_path("p", file.id).read_bytes() == b"a,b\n1,2\n"
    second = _upload(b"other")
    assert [found.id for found in datasets.list_files("p")] == [second.id, file.id]


def test_files_of_other_projects_are_not_there(store: Path) -> None:
    file = _upload()
    with pytest.raises(NotFound, match=file.id):
        datasets.get_file("other", file.id)
    with pytest.raises(NotFound):
        datasets.delete_file("other", file.id)
    assert datasets.list_files("other") == []


def test_an_empty_file_is_refused_and_leaves_nothing(store: Path) -> None:
    with pytest.raises(DataError, match="support.csv"):
        _upload(b"")
    assert datasets.list_files("p") == []
    assert list((store / "artifacts").iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("../../etc/passwd", "passwd"), ("C:\\data\\a.csv", "a.csv"), ("a\0b.csv", "ab.csv"), ("/", "unnamed")],
)
def test_names_lose_their_folders(store: Path, sent: str, kept: str) -> None:
    assert _upload(name=sent).name == kept


def test_deleting_keeps_bytes_that_another_upload_has(store: Path) -> None:
    first, second = _upload(b"same"), _upload(b"same", project="other")
    datasets.delete_file("p", first.id)
    assert datasets.file_path("other", second.id).read_bytes() == b"same"
    datasets.delete_file("other", second.id)
    with pytest.raises(NotFound):
        artifacts.path(first.sha256)
    with pytest.raises(NotFound):
        datasets.delete_file("other", second.id)


def test_a_file_that_a_task_needs_stays(store: Path) -> None:
    train, test = _upload(b"train"), _upload(b"test")
    tasks.create_task(
        "p", id="task-1", thread="t", conversation="c", request="x", train_file=train.id, test_file=test.id
    )
    for file in (train, test):
        with pytest.raises(Conflict, match="task-1"):
            datasets.delete_file("p", file.id)
    tasks.update_task("task-1", status="failed")
    datasets.delete_file("p", test.id)
    assert [file.id for file in datasets.list_files("p")] == [train.id]


def test_a_deleted_file_takes_the_cache_of_its_rows_with_it(store: Path, card: DatasetCard) -> None:
    files = [_upload(b"same"), _upload(b"same")]
    of_file = card.model_copy(update={"source": files[0].sha256})
    kept = {artifacts.put_json(made): frozen.home() / made.digest for made in (card, of_file)}
    for digest, folder in kept.items():
        folder.mkdir(parents=True)
        with frozen.of_dataset(digest):
            frozen.mark(folder)
    datasets.delete_file("p", files[0].id)
    assert kept[of_file.digest].exists()  # another upload has the same bytes
    datasets.delete_file("p", files[1].id)
    assert not kept[of_file.digest].exists() and kept[card.digest].exists()
    assert datasets.get_card(of_file.digest) == of_file


def test_cards_come_back_without_a_database(store: Path, card: DatasetCard, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = datasets.add_card("p", card, "task-1")
    assert datasets.add_card("p", card, "task-1") == digest == card.digest
    assert datasets.list_cards("p") == datasets.list_cards("p", task="task-1") == [digest]
    assert datasets.list_cards("p", task="task-2") == datasets.list_cards("other") == []
    db.dispose()
    monkeypatch.setenv("MOATELIER_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    settings.cache_clear()
    assert datasets.get_card(digest) == card


def test_what_is_no_card_is_told(store: Path, card: DatasetCard) -> None:
    with pytest.raises(NotFound):
        datasets.get_card("0" * 64)
    with pytest.raises(NotFound, match="not a dataset's card"):
        datasets.get_card(artifacts.put_json({"a": 1}))
    digest = datasets.add_card("p", card, "task-1")
    artifacts.path(digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        datasets.get_card(digest)
