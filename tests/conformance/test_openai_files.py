"""`files` and `uploads` by the openai package."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from moatelier.contracts import now
from store import datasets, uploads
from tests.conformance.serving import Whole

DATA = bytes(range(256)) * 5000


def begin(whole: Whole, size: int = len(DATA), **more: Any) -> Any:
    return whole.client.uploads.create(
        bytes=size, filename="rows.jsonl", mime_type="application/jsonl", purpose="fine-tune", **more
    )


def pieces(size: int = 300_000) -> list[bytes]:
    return [DATA[at : at + size] for at in range(0, len(DATA), size)]


def folders(whole: Whole) -> list[str]:
    return [path.name for path in (whole.player.home / "uploads").glob("*")]


def test_parts_become_one_file_in_the_order_of_their_names(whole: Whole) -> None:
    upload = begin(whole, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (upload.status, upload.object, upload.expires_at - upload.created_at) == ("pending", "upload", 3600)
    add = whole.client.uploads.parts.create
    sent = [add(upload.id, data=piece).id for piece in reversed(pieces())]
    add(upload.id, data=b"sent again and not named")
    whole_md5 = hashlib.md5(DATA).hexdigest()
    done = whole.client.uploads.complete(upload.id, part_ids=sent[::-1], md5=whole_md5)
    assert done.status == "completed" and done.file and done.file.bytes == len(DATA)
    assert done.file.expires_at and done.file.expires_at - done.file.created_at == 3600
    assert whole.client.files.content(done.file.id).read() == DATA
    assert folders(whole) == []
    assert whole.client.uploads.complete(upload.id, part_ids=sent[::-1]).file == done.file, (
        "asked again, not made again"
    )
    assert len(whole.client.files.list().data) == 1


def test_the_package_sends_a_file_in_parts_by_itself(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(DATA)
    done = whole.client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=500_000
    )
    assert done.file and whole.client.files.content(done.file.id).read() == DATA


@pytest.mark.parametrize("case", ["missing", "strange", "twice", "md5"])
def test_what_is_not_whole_becomes_no_file_and_can_be_gone_on_with(whole: Whole, case: str) -> None:
    upload = begin(whole)
    sent = [whole.client.uploads.parts.create(upload.id, data=piece).id for piece in pieces()]
    named = {"missing": sent[:-1], "strange": [*sent, "part-1"], "twice": [*sent, sent[0]], "md5": sent}[case]
    with pytest.raises(openai.BadRequestError):
        whole.client.uploads.complete(upload.id, part_ids=named, **({"md5": "0" * 32} if case == "md5" else {}))
    assert whole.client.files.list().data == []
    assert whole.client.uploads.complete(upload.id, part_ids=sent).status == "completed"


def test_a_client_that_lost_its_place_is_told_which_parts_are_there(whole: Whole) -> None:
    upload = begin(whole)
    part = whole.client.uploads.parts.create(upload.id, data=DATA[:10])
    headers = {"authorization": f"Bearer {whole.key}"}
    told = httpx.get(f"{whole.url}/v1/uploads/{upload.id}", headers=headers).json()
    assert [(each["id"], each["bytes"]) for each in told["parts"]] == [(part.id, 10)]


def test_a_cancelled_upload_takes_nothing_more_and_leaves_nothing(whole: Whole) -> None:
    upload = begin(whole)
    part = whole.client.uploads.parts.create(upload.id, data=DATA[:10])
    assert folders(whole) == [upload.id]
    assert whole.client.uploads.cancel(upload.id).status == "cancelled"
    assert folders(whole) == []
    late: list[Callable[[], Any]] = [
        lambda: whole.client.uploads.cancel(upload.id),
        lambda: whole.client.uploads.parts.create(upload.id, data=b"x"),
        lambda: whole.client.uploads.complete(upload.id, part_ids=[part.id]),
    ]
    for call in late:
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            call()


def test_more_than_was_announced_does_not_fill_the_disk(whole: Whole) -> None:
    upload = begin(whole, size=10)
    for _ in range(2):
        whole.client.uploads.parts.create(upload.id, data=b"0123456789")
    with pytest.raises(openai.BadRequestError, match="larger"):
        whole.client.uploads.parts.create(upload.id, data=b"0")
    with pytest.raises(openai.BadRequestError, match="bytes"):
        begin(whole, size=uploads.MOST_BYTES + 1)


def test_an_upload_that_is_left_alone_expires(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begin(whole)
    whole.client.uploads.parts.create(upload.id, data=DATA[:10])
    monkeypatch.setattr(uploads, "now", lambda: now() + timedelta(hours=2))
    with pytest.raises(openai.BadRequestError, match="expired"):
        whole.client.uploads.parts.create(upload.id, data=b"x")
    assert (uploads.remove_expired(), folders(whole), uploads.remove_expired()) == (1, [], 0)


def test_a_file_is_forgotten_when_its_time_is_over(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = whole.client.files.create(file=("a.csv", b"a,b\n"), purpose="fine-tune")
    sent = whole.client.files.create(
        file=("b.csv", b"c,d\n"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert sent.expires_at == sent.created_at + 7200 and kept.expires_at is None
    monkeypatch.setattr(datasets, "now", lambda: now() + timedelta(hours=3))
    with pytest.raises(openai.NotFoundError):
        whole.client.files.retrieve(sent.id)
    assert [file.id for file in whole.client.files.list()] == [kept.id]
    assert datasets.remove_expired() == 1
    assert len(list((whole.player.home / "artifacts").glob("??/*"))) == 1


def test_a_file_is_there_at_once_until_it_is_deleted(whole: Whole) -> None:
    sent = whole.client.files.create(file=("a.csv", b"a,b\n"), purpose="fine-tune")
    ready = whole.client.files.wait_for_processing(sent.id, max_wait_seconds=0)
    assert (ready.id, ready.status) == (sent.id, "processed")
    gone = whole.client.files.delete(sent.id)
    assert gone.deleted and gone.id == sent.id and whole.client.files.list().data == []
    for call in (whole.client.files.delete, whole.client.files.content, whole.client.files.wait_for_processing):
        with pytest.raises(openai.NotFoundError):
            call(sent.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "anything"}, "purpose"),
        ({"purpose": "batch", "expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"),
        ({"purpose": "batch", "expires_after": {"anchor": "tomorrow", "seconds": 7200}}, "expires_after.anchor"),
    ],
)
def test_a_file_for_nothing_known_is_refused(whole: Whole, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        whole.client.files.create(file=("a.csv", b"a"), **fields)
    assert refused.value.param == param
