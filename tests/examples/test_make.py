"""The command, and that what it writes is read as a task's data."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from examples import make
from examples.making.shapes import NAMES
from modalities.audio import data as audio
from modalities.vision import data as vision

WORDS = dict.fromkeys(NAMES, 2)


def test_a_zip_of_pictures_is_a_tasks_data(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "shapes.zip"
    assert make.main(["pictures", str(out), "--count", "20"]) == 0
    assert "21 files" in capsys.readouterr().out
    profile = vision.profile(out, "shapes.zip", "file-1")
    assert (profile.images, profile.labels, profile.problems) == (20, WORDS, ())
    rows = vision.read_rows(out, "shapes.zip")
    findings = vision.find(rows)
    assert not findings.clusters and not findings.problems and findings.licences == {"CC0-1.0": 20}
    assert all(row.caption and row.label in row.caption for row in rows)


def test_a_folder_of_speech_is_a_tasks_data(spoken: None, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "words"
    assert make.main(["speech", str(out), "--count", "20"]) == 0
    profile = audio.profile(out, "words", "file-1")
    assert (profile.recordings, profile.transcripts, profile.rates) == (20, 20, {16000: 20})
    findings = audio.find(audio.read_rows(out, "words", "transcript"))
    assert not findings.problems and not findings.silent and not findings.clipped and findings.window_s == 3
    assert len(findings.speakers) == 2 and findings.licences == {"CC0-1.0": 20}
    rows = audio.read_rows(out, "words", "label")
    assert Counter(row.label for row in rows) == WORDS


def test_equal_seeds_make_equal_zips(tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("one.zip", "two.zip", "three.zip")]
    for out, seed in zip(outs, ("7", "7", "8"), strict=True):
        assert make.main(["pictures", str(out), "--count", "3", "--seed", seed]) == 0
    one, two, three = (out.read_bytes() for out in outs)
    assert one == two != three
    assert zipfile.ZipFile(outs[0]).testzip() is None


def test_a_zip_is_made_anew_and_a_folder_with_something_in_it_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shapes.zip"
    out.write_bytes(b"old")
    assert make.main(["pictures", str(out), "--count", "1"]) == 0 and zipfile.is_zipfile(out)
    assert make.main(["pictures", str(tmp_path), "--count", "1"]) == 1
    assert "something already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]


def test_what_fails_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (tmp_path / "pairs.zip", tmp_path / "pairs"):
        assert make.main(["pairs", str(out), "--count", "7"]) == 1
    assert "multiple of 20" in capsys.readouterr().err and not list(tmp_path.iterdir())
