import stat
from pathlib import Path

import pytest

import evals
from evals import vault
from moatelier.errors import IntegrityError, NotFound
from modalities.audio import data as audio_data
from modalities.audio.rows import AudioRow
from modalities.text import data
from modalities.vision import data as vision_data
from modalities.vision.rows import ImageRow
from tests.evals.conftest import made_rows

ROWS = made_rows(5)
BYTES, LOCKED = data.write_rows(ROWS), data.locked_digest(ROWS)


def test_rows_come_back_and_are_closed_to_others(home: Path) -> None:
    vault.lock(BYTES, LOCKED)
    assert vault.open_locked(LOCKED) == BYTES
    file = home / "vault" / f"{LOCKED}.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_locking_again_changes_nothing(home: Path) -> None:
    vault.lock(BYTES, LOCKED)
    vault.lock(data.write_rows(ROWS[::-1]), LOCKED)
    assert vault.open_locked(LOCKED) == BYTES


def test_a_changed_byte_is_found(home: Path) -> None:
    vault.lock(BYTES, LOCKED)
    file = home / "vault" / f"{LOCKED}.jsonl"
    for damaged in (BYTES.replace(b"number 3", b"number 4"), BYTES[:-20], b"junk"):
        file.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="changed"):
            vault.open_locked(LOCKED)


IMAGES = [ImageRow(number, "a" * 64, f"{number:064x}", "cat") for number in range(1, 4)]
SOUNDS = [AudioRow(number, "a" * 64, f"{number:064x}", "one", speaker="theo") for number in range(1, 4)]


@pytest.mark.parametrize(
    ("rows", "digest"),
    [
        (vision_data.write_rows(IMAGES), vision_data.locked_digest(IMAGES)),
        (audio_data.write_rows(SOUNDS), audio_data.locked_digest(SOUNDS)),
    ],
)
def test_rows_of_every_modality_are_locked_by_their_own_content(home: Path, rows: bytes, digest: str) -> None:
    vault.lock(rows, digest)
    assert vault.open_locked(digest) == rows
    with pytest.raises(IntegrityError):
        vault.lock(BYTES, digest)


def test_rows_are_not_locked_under_another_name(home: Path) -> None:
    with pytest.raises(IntegrityError):
        vault.lock(BYTES, "0" * 64)
    assert not (home / "vault").exists()


@pytest.mark.parametrize("name", ["0" * 64, "../moatelier.db", ""])
def test_unknown_rows(home: Path, name: str) -> None:
    for call in (vault.need, vault.open_locked):
        with pytest.raises(NotFound):
            call(name)


def test_only_the_gates_open_the_vault() -> None:
    root = Path(evals.__file__).parent.parent
    folders = ("moatelier", "store", "modalities", "training", "evals", "serving", "agents", "graphs", "api")
    users = {
        str(file.relative_to(root))
        for folder in folders
        for file in (root / folder).rglob("*.py")
        if "open_locked" in file.read_text(encoding="utf-8")
    }
    assert users == {"evals/vault.py", "evals/gate.py", "evals/held_out.py"}, "the gates of adapters and of recipes"
    readers = [
        str(file.relative_to(root))
        for folder in folders
        for file in (root / folder).rglob("*.py")
        if '"vault"' in file.read_text(encoding="utf-8")
    ]
    assert readers == ["evals/vault.py"]


def test_training_and_the_evaluation_job_know_no_vault() -> None:
    root = Path(evals.__file__).parent.parent
    for file in [*(root / "training").rglob("*.py"), root / "evals" / "run.py", root / "evals" / "answers.py"]:
        assert "import vault" not in file.read_text(encoding="utf-8"), file
