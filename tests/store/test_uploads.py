"""Uploads in parts: what they may take together, and what is left when two do the same or one dies."""

import io
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import now
from moatelier.errors import Conflict, InvalidRequest, MoatelierError, QuotaExceeded
from store import datasets, db, projects, uploads
from store.dialect_tables import UploadRow


def begin(size: int, project: str = "shop") -> uploads.Upload:
    return uploads.create(project, name="a.jsonl", purpose="fine-tune", bytes=size, mime_type="text/plain")


def send(upload: uploads.Upload, size: int) -> str:
    return uploads.add_part(upload.project, upload.id, io.BytesIO(b"x" * size)).id


class Meanwhile(io.BytesIO):
    """Bytes during whose coming something else happens."""

    def __init__(self, data: bytes, what: Callable[[], Any]) -> None:
        super().__init__(data)
        self._what: Callable[[], Any] | None = what

    def read(self, size: int | None = -1) -> bytes:
        what, self._what = self._what, None
        if what is not None:
            what()
        return super().read(size)


def expire(upload: uploads.Upload) -> int:
    with db.session() as opened:
        opened.get_one(UploadRow, upload.id).expires_at = now() - timedelta(seconds=1)
    return uploads.remove_expired()


def test_parts_count_for_the_quota_and_only_once(store: Path) -> None:
    projects.create("shop", storage_bytes=100)
    with pytest.raises(QuotaExceeded):
        begin(101)
    first, second = begin(60), begin(60)
    part = send(first, 60)
    with pytest.raises(QuotaExceeded, match="it has 60, and this needs 41"):
        send(second, 41)
    with pytest.raises(QuotaExceeded):
        datasets.add_file("shop", "a.csv", io.BytesIO(b"x" * 41))
    uploads.complete("shop", first.id, [part])  # its parts are not counted beside the file that they become
    send(second, 40)
    uploads.cancel("shop", second.id)
    datasets.add_file("shop", "a.csv", io.BytesIO(b"x" * 40))


def test_parts_that_come_at_once_stay_within_what_was_announced(store: Path) -> None:
    upload = begin(10)
    with pytest.raises(InvalidRequest, match="may still come"):
        uploads.add_part("shop", upload.id, Meanwhile(b"x" * 15, lambda: send(upload, 15)))
    assert [part.bytes for part in uploads.parts(upload)] == [15]
    assert len(list((store / "uploads" / upload.id).iterdir())) == 1


def test_two_that_keep_something_at_once_share_what_is_free(store: Path) -> None:
    projects.create("shop", storage_bytes=100)
    both, refused = threading.Barrier(2), list[Exception]()

    def keep(byte: bytes) -> None:
        both.wait()
        try:
            datasets.add_file("shop", "a.csv", io.BytesIO(byte * 60))
        except QuotaExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=keep, args=(byte,)) for byte in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1 and len(datasets.list_files("shop")) == 1


def test_a_part_that_comes_while_its_upload_ends_is_told_so(store: Path) -> None:
    upload = begin(10)
    late = Meanwhile(b"x" * 10, lambda: uploads.cancel("shop", upload.id))
    with pytest.raises(Conflict, match="has ended"):
        uploads.add_part("shop", upload.id, late)


def test_completing_twice_at_once_gives_the_same_file(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begin(10)
    parts = [send(upload, 10)]
    add, made = datasets.add_file, list[Any]()

    def late(*args: Any, **kwargs: Any) -> datasets.File:
        monkeypatch.setattr(datasets, "add_file", add)
        made.append(uploads.complete("shop", upload.id, parts))  # the other request is through before this one reads
        return add(*args, **kwargs)

    monkeypatch.setattr(datasets, "add_file", late)
    assert uploads.complete("shop", upload.id, parts) == made[0]
    assert len(datasets.list_files("shop")) == 1


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_an_upload_whose_file_was_made_is_complete_whoever_died(
    store: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    upload = begin(10)
    part = send(upload, 10)

    def killed(*_: Any, **__: Any) -> None:
        raise MoatelierError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "_end", killed)
        with pytest.raises(MoatelierError, match="killed"):
            uploads.complete("shop", upload.id, [part])
    [file] = datasets.list_files("shop")
    if end == "expired":
        assert expire(upload) == 1
    else:
        with pytest.raises(Conflict, match="completed"):
            uploads.cancel("shop", upload.id)
    assert uploads.complete("shop", upload.id, [part]) == (uploads.get("shop", upload.id), file)
