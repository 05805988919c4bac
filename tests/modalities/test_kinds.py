"""What an upload holds, told before anything is decoded."""

import zipfile
from pathlib import Path

import pytest

from moatelier.errors import DataError
from modalities.kinds import held
from modalities.text.reading import read_table


def archive(file: Path, *names: str) -> Path:
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, b"x")
    return file


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("a/1.png", "b/2.JPG", "index.csv"), ("vision",)),
        (("1.wav", "2.flac", "3.mp3"), ("audio",)),
        (("a.wav", "b.wav", "cover.png"), ("audio", "vision")),
        (("a/1.png", "__MACOSX/a/._1.wav", ".hidden/2.wav"), ("vision",)),
    ],
)
def test_an_archive_holds_what_its_files_are(tmp_path: Path, names: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    assert held(archive(tmp_path / "a.zip", *names), "a.zip") == kinds


def test_an_archive_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither pictures nor recordings"):
        held(archive(tmp_path / "a.zip", "rows.csv"), "a.zip")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(DataError, match="no zip archive"):
        held(broken, "broken.zip")


@pytest.mark.parametrize("name", ["one.wav", "cat.PNG"])
def test_one_file_alone_is_nothing_to_learn_from(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="alone is nothing to learn from"):
        held(tmp_path / name, name)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("message,intent\nhello there,greet\n", "text"),
        ("image,label\na/1.png,cat\na/2.png,dog\n", "vision"),
        ("file,text\n1.wav,one\n2.wav,two\n", "audio"),
        ('x,label\n"data:image/png;base64,AA==",cat\n', "vision"),
        ('x,label\n"data:audio/wav;base64,AA==",cat\n', "audio"),
        ("message,attachment,intent\nsee the picture,a.png,help\nsee this,b.png,help\n", "text"),
        ("file,label\na.png,cat\nmissing,dog\n", "text"),
        ("text,label\nplease send me logo.png,mail\n", "text"),
        ("", "text"),
    ],
)
def test_a_table_holds_what_its_columns_name(tmp_path: Path, table: str, kind: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(table)
    assert held(file, "t.csv") == (kind,)


def test_a_data_uri_may_be_longer_than_any_text(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + "A" * 400_000
    file = tmp_path / "t.csv"
    file.write_text(f'image,label\n"{uri}",cat\n"{uri}",dog\n')
    assert held(file, "t.csv") == ("vision",)
    assert [len(record.values["image"]) for record in read_table(file, "t.csv").records] == [len(uri)] * 2
