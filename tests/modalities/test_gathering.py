"""Files of plain text as a dataset to continue pre-training on."""

import json
from pathlib import Path
from typing import Any

import pytest

from moatelier.errors import DataError, InvalidRequest
from moatelier.job import Job
from modalities.text.gathering import work
from store import datasets
from training.run import read_rows

TEXTS = [f"Chapter {number}. " + " ".join(f"word{number * 31 + n}" for n in range(30)) for number in range(40)]


def gather(folder: Path, **spec: Any) -> dict[str, Any]:
    return work(spec, Job(folder / "jobs" / "job", quiet=True))


def test_text_files_and_tables_become_train_and_dev(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[1:]))
    (tmp_path / "one.txt").write_text(TEXTS[0])
    (tmp_path / "copy.txt").write_text(TEXTS[0])
    files = [str(tmp_path / name) for name in ("one.txt", "copy.txt", "notes.jsonl")]
    found = gather(home, files=files, name="book", licence="CC0-1.0")
    assert (found["copies"], found["train"], found["dev"]) == (1, 36, 4)
    card = datasets.get_card(found["dataset"])
    assert (card.kind, card.name, card.licence) == ("pretraining", "book", "CC0-1.0")
    rows = {split: read_rows(card, split) for split in ("train", "dev")}
    assert sorted(row["text"] for split in rows.values() for row in split) == sorted(TEXTS)
    assert gather(home, files=files, name="book", licence="CC0-1.0") == found


def test_documents_that_say_nearly_the_same_stay_together(home: Path, tmp_path: Path) -> None:
    twins = [text + f" {letter}" for text in TEXTS for letter in "ab"]
    (tmp_path / "notes.csv").write_text("text\n" + "".join(f"{text}\n" for text in twins))
    card = datasets.get_card(gather(home, files=[str(tmp_path / "notes.csv")])["dataset"])
    train, dev = ({row["text"][:-2] for row in read_rows(card, split)} for split in ("train", "dev"))
    assert dev and not train & dev and card.report.near_duplicate_clusters == 40


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b" \n", "no text in the file"),
        ("a.txt", b"\xff\xfe\xff", "not readable"),
        ("a.csv", b"body\nhello there\n", "no column 'text'"),
        ("a.jsonl", b'{"text": 3}\n{"text": ["x"]}\n', "not text"),
    ],
)
def test_what_holds_no_text_is_refused(home: Path, tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        gather(home, files=[str(tmp_path / name)])
    with pytest.raises(InvalidRequest, match="names no files"):
        gather(home)
    assert not (home / "artifacts").exists()
