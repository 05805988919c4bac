"""Data that come divided: what is learnt from, what is the test, and rows that are numbered through."""

import zipfile
from pathlib import Path

import pytest

from modalities.halves import half_of, halves, parts_of, read_parts
from modalities.vision import images
from modalities.vision.rows import ImageRow


@pytest.mark.parametrize(
    ("parts", "learn", "test"),
    [
        (("test", "train"), ("train",), ("test",)),
        (("Test", "train", "val"), ("train", "val"), ("Test",)),
        (("train", "val"), (), ()),
        (("test",), (), ()),
        ((), (), ()),
    ],
)
def test_only_parts_named_test_are_one(parts: tuple[str, ...], learn: tuple[str, ...], test: tuple[str, ...]) -> None:
    assert halves(parts) == (learn, test)
    assert half_of(parts, "learn") == learn and half_of(parts, "test") == test and half_of(parts, "all") == ()


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train/a/1.png", "test/a/1.png"), ("test", "train")),
        (("train.csv", "test.csv", "x/1.png"), ("test", "train")),
        (("index.csv", "train/a/1.png", "test/a/1.png"), ()),
        (("a/1.png", "b/1.png"), ()),
    ],
)
def test_folders_or_tables_divide_data(tmp_path: Path, names: tuple[str, ...], parts: tuple[str, ...]) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, b"file,label\n1,a\n")
    assert parts_of(file, "a.zip", images.media()) == parts
    table = tmp_path / "t.csv"
    table.write_text("image,label\ndata:,a\n")
    assert parts_of(table, "t.csv", images.media()) == ()


def test_rows_of_several_parts_have_numbers_of_their_own() -> None:
    def read(part: str | None) -> list[ImageRow]:
        return [ImageRow(1, label=part), ImageRow(2, label=part)]

    assert [(row.number, row.label) for row in read_parts(read, ("train", "val"))] == [
        (1, "train"),
        (2, "train"),
        (3, "val"),
        (4, "val"),
    ]
    assert [row.label for row in read_parts(read, ())] == [None, None]
