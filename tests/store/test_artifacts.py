"""Files by content: whole or not there, and never believed without a look."""

import io
import threading
from pathlib import Path

import pytest

from moatelier.contracts import DatasetCard
from moatelier.errors import IntegrityError, InvalidRequest, NotFound, ResourceExhausted
from moatelier.ids import digest_bytes
from store import artifacts


def test_bytes_files_and_json_come_back(home: Path, tmp_path: Path, card: DatasetCard) -> None:
    digest = artifacts.put_bytes(b"rows")
    assert digest == digest_bytes(b"rows")
    assert artifacts.get_bytes(digest) == b"rows"
    assert artifacts.path(digest) == home / "artifacts" / digest[:2] / digest
    (tmp_path / "file").write_bytes(b"rows")
    assert artifacts.put_file(tmp_path / "file") == digest
    assert artifacts.get_json(artifacts.put_json({"b": 1, "ä": [1.5, None]})) == {"b": 1, "ä": [1.5, None]}


def test_a_contracts_artifact_has_the_contracts_digest(home: Path, card: DatasetCard) -> None:
    assert artifacts.put_json(card) == card.digest


def test_unknown_digests_are_not_found(home: Path) -> None:
    (home / "secret").write_text("x")
    for wrong in ("0" * 64, "", "../../secret", "0" * 63 + "/"):
        with pytest.raises(NotFound):
            artifacts.path(wrong)


def test_a_changed_byte_is_seen_and_healed_by_the_next_put(home: Path) -> None:
    digest = artifacts.put_json({"a": 1})
    artifacts.path(digest).write_bytes(b'{"a":2}')
    with pytest.raises(IntegrityError, match="changed on disk"):
        artifacts.get_json(digest)
    artifacts.put_json({"a": 1})
    assert artifacts.get_json(digest) == {"a": 1}


def test_what_is_no_json_is_refused(home: Path) -> None:
    for wrong in (float("nan"), object(), "\ud800"):
        with pytest.raises(InvalidRequest):
            artifacts.put_json(wrong)
    with pytest.raises(InvalidRequest, match="not JSON"):
        artifacts.get_json(artifacts.put_bytes(b"\xff"))
    with pytest.raises(NotFound):
        artifacts.put_file(home / "missing")


class _Breaks(io.BytesIO):
    """A stream whose second piece does not come."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x" * 10)
        self.error, self.reads = error, 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > 1:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left on device"), ResourceExhausted), (RuntimeError("client gone"), RuntimeError)],
)
def test_a_write_that_fails_leaves_nothing(home: Path, error: Exception, seen: type[Exception]) -> None:
    with pytest.raises(seen):
        artifacts.Incoming(_Breaks(error))
    assert list((home / "artifacts").iterdir()) == []


def test_a_place_that_cannot_be_written_says_so(home: Path) -> None:
    (home / "artifacts").write_text("in the way")
    with pytest.raises(ResourceExhausted, match="Free some disk space"):
        artifacts.put_bytes(b"x")


def test_what_a_killed_writer_left_is_removed(home: Path) -> None:
    artifacts.Incoming(io.BytesIO(b"half"))  # neither kept nor discarded, as after SIGKILL
    digest = artifacts.put_bytes(b"whole")
    assert artifacts.remove_leftovers(older_than_s=60) == 0
    assert artifacts.remove_leftovers(older_than_s=0) == 1
    assert [path.name for path in (home / "artifacts").iterdir()] == [digest[:2]]


def test_many_threads_bring_the_same_bytes(home: Path) -> None:
    data = b"x" * 3_000_000
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(artifacts.put_bytes(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(digests) == {digest_bytes(data)} and len(digests) == 8
    assert [path for path in (home / "artifacts").iterdir() if path.is_file()] == []
    assert artifacts.get_bytes(digests[0]) == data
