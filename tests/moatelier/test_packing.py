"""What is sent of a path: files as they are, folders and tables with their files as zips that are always the same."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from moatelier import packing
from moatelier.errors import DataError
from moatelier.packing import sendable
from modalities import files
from modalities.audio import sound
from modalities.kinds import held
from modalities.vision import images
from store import artifacts, datasets
from tests.moatelier.conftest import Command
from tests.modalities.vision.pictures import COLOURS, drawn, encoded


def test_the_service_reads_what_is_packed() -> None:
    assert set(packing.MEDIA) == {*images.SUFFIXES, *sound.SUFFIXES} and packing.TABLES == files.TABLES
    assert (packing.MAX_FILES, packing.MAX_BYTES) == (files.MAX_FILES, files.MAX_TOTAL)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for label in COLOURS:
        (folder / label).mkdir(parents=True)
        for seed in range(2):
            (folder / label / f"{seed}.png").write_bytes(encoded(drawn(label, seed, 32)))
    (folder / "index.csv").write_text("file,label\n")
    (folder / "notes.docx").write_bytes(b"not sent")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "1.png").write_bytes(b"not sent")
    return folder


def test_a_folder_becomes_the_same_zip_each_time(pets: Path, tmp_path: Path) -> None:
    with sendable(pets) as (name, first), sendable(pets) as (_, second):
        assert name == "pets.zip" and first.read_bytes() == second.read_bytes()
        names = zipfile.ZipFile(first).namelist()
        assert held(first, name) == ("vision",)
    assert names == ["blue/0.png", "blue/1.png", "green/0.png", "green/1.png", "index.csv", "red/0.png", "red/1.png"]
    assert not first.exists(), "what was packed is deleted"


def test_a_table_takes_what_it_names_along_though_some_rows_name_nothing(pets: Path) -> None:
    rows = [{"image": "red/0.png", "answer": "red"}, {"image": "", "answer": "4"}]
    (pets / "exam.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with sendable(pets / "exam.jsonl") as (name, sent):
        assert name == "exam.zip" and zipfile.ZipFile(sent).namelist() == ["exam.jsonl", "red/0.png"]


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    for name, content in (("rows.csv", "text,label\nhello there,greet\n"), ("some.zip", "PK"), ("odd.bin", "x")):
        (tmp_path / name).write_text(content)
        with sendable(tmp_path / name) as sent:
            assert sent == (name, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "image,label\n{0},red\n{1},red\nred/missing.png,red\n"),
        ("list.csv", "﻿label;image\nred;{0}\nred;{1}\n"),
        ("list.jsonl", '{{"image": "{0}", "label": "red"}}\n{{"image": "{1}", "label": "red"}}\n'),
    ],
)
def test_a_table_takes_the_files_along_that_it_names(pets: Path, name: str, text: str) -> None:
    (pets / name).write_text(text.format("red/0.png", "red/1.png"), encoding="utf-8")
    with sendable(pets / name) as (sent, packed):
        assert sent == "list.zip" and zipfile.ZipFile(packed).namelist() == [name, "red/0.png", "red/1.png"]


def test_what_leads_out_or_is_too_much_is_refused(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    os.symlink(secret, pets / "red" / "link.png")
    with pytest.raises(DataError, match="leads out"), sendable(pets):
        pass
    (pets / "red" / "link.png").unlink()
    monkeypatch.setattr(packing, "MAX_FILES", 3)
    with pytest.raises(DataError, match="more than 3 files"), sendable(pets):
        pass
    monkeypatch.setattr(packing, "MAX_FILES", 100)
    monkeypatch.setattr(packing, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="have more than"), sendable(pets):
        pass


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, told in ((tmp_path / "empty", "neither pictures nor recordings"), (tmp_path / "none", "no such file")):
        with pytest.raises(DataError, match=told), sendable(path):
            pass


def test_a_folder_is_enough_for_a_task(command: Command, pets: Path) -> None:
    (pets / "index.csv").unlink()
    done = command("task", "sort these pictures by colour", "--file", str(pets), "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    [profile] = [line["profile"] for line in lines if line["kind"] == "profile"]
    assert done.exit_code == 2 and profile["images"] == 6 and profile["name"] == "pets.zip"
    assert [question["field"] for line in lines for question in line.get("questions", [])] == ["goal"]
    [file] = datasets.list_files("default")
    assert file.name == "pets.zip" and artifacts.path(file.sha256).stat().st_size == file.bytes
    shown = command("task", "sort these pictures by colour", "--file", str(pets))
    assert "pets.zip: 6 pictures, 3 classes" in shown.stdout
