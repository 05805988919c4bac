"""Exams as people bring them: a table alone, with its media in a zip, and everything that refuses one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import Cancelled, DataError, InvalidRequest
from modalities.exam import Exam, read_exam
from store import artifacts
from tests.media import packed, scene, word

pytestmark = pytest.mark.usefixtures("home")
PAIR = {"question": "The same?", "image": "a/1.png", "audio": "1.wav", "answer": "yes"}
FILES = {"a/1.png": scene("red", 1), "1.wav": word("red")}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(folder: Path, *rows: dict[str, Any], **members: bytes) -> Exam:
    held = {"exam.jsonl": lines(*rows)} | FILES | members
    return read_exam(packed(folder / "exam.zip", held), "exam.zip", artifacts.put_bytes)


def test_a_row_may_have_any_of_the_parts(tmp_path: Path) -> None:
    words = {"question": "How many?", "answer": 2, "group": "g"}
    bare = {"image": "a/1.png", "answer": "red"}
    exam = read(tmp_path, PAIR, words, bare)
    image, audio = (artifacts.put_bytes(data) for data in FILES.values())
    assert exam.rows[0].messages == (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "The same?"},
                {"type": "image", "artifact": image},
                {"type": "audio", "artifact": audio},
            ],
        },
        {"role": "assistant", "content": "yes"},
    )
    assert exam.rows[1].messages[0]["content"] == "How many?" and exam.rows[1].answer == "2"
    assert exam.rows[2].messages[0]["content"] == [{"type": "image", "artifact": image}]
    assert [row.group for row in exam.rows] == [None, "g", None]
    assert (exam.columns.input, exam.columns.target, exam.columns.group) == ("question", "answer", "group")


def test_a_table_alone_brings_its_media_itself_or_none(tmp_path: Path) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(FILES['a/1.png']).decode()}"
    file = tmp_path / "exam.csv"
    file.write_text(f'prompt,picture,expected\nWhat is it?,"{uri}",red\n')
    [row] = read_exam(file, "exam.csv", artifacts.put_bytes).rows
    assert [part["type"] for part in row.messages[0]["content"]] == ["text", "image"]
    file.write_text("prompt,expected\nTwo and two?,4\n")
    assert read_exam(file, "exam.csv", artifacts.put_bytes).rows[0].messages[0]["content"] == "Two and two?"
    file.write_text("image,answer\n1.png,red\n")
    with pytest.raises(DataError, match="no files came with it"):
        read_exam(file, "exam.csv", artifacts.put_bytes)


def test_what_a_recording_says_is_no_question(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"audio": "1.wav", "text": "red", "answer": "yes"}).rows
    assert [part["type"] for part in row.messages[0]["content"]] == ["audio"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": ""}, "no answer"),
        ({"answer": ["yes"]}, "not text"),
        ({"image": "b.png"}, "no such file"),
        ({"image": "n/a"}, "no such file"),
        ({"image": "b.heic"}, "no such file"),
        ({"image": "../b.png"}, "leads out"),
        ({"image": "broken.png"}, "no image of a known format"),
        ({"audio": "text.wav"}, "recording"),
        ({"question": "", "image": "", "audio": ""}, "asks nothing"),
    ],
)
def test_one_bad_row_refuses_the_whole_and_is_named(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    broken = {"broken.png": b"no picture", "text.wav": b"no sound"}
    with pytest.raises(DataError, match=why) as caught:
        read(tmp_path, PAIR, PAIR | row, **broken)
    assert "exam.zip: exam.jsonl, row 2, line 2" in caught.value.where or row.get("image", "-") in caught.value.where


def test_a_column_of_media_is_no_question(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"input": "a/1.png", "answer": "red"}).rows
    assert [part["type"] for part in row.messages[0]["content"]] == ["image"]


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "exam.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match="An exam is a table"):
        read_exam(tmp_path / "exam.pdf", "exam.pdf", artifacts.put_bytes)


def test_a_url_is_refused(tmp_path: Path) -> None:
    uri = "https://example.org/1.png"
    with pytest.raises(InvalidRequest, match="nothing is fetched"):
        read(tmp_path, PAIR, PAIR | {"image": uri})


def test_columns_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No column holds the answers") as caught:
        read(tmp_path, {"question": "Why?", "because": "so"})
    assert "question, because" in caught.value.remedy
    with pytest.raises(DataError, match="asks anything"):
        read(tmp_path, {"answer": "yes", "said": "red"})
    with pytest.raises(DataError, match="several tables"):
        read(tmp_path, PAIR, **{"other.csv": b"question,answer\nWhy?,so\n"})


def test_it_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        read_exam(packed(tmp_path / "exam.zip", {"exam.jsonl": lines(PAIR)} | FILES), "exam.zip", str, stop)
