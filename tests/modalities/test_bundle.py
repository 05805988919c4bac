import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moatelier.contracts import TrainSpec
from moatelier.errors import IntegrityError, NotFound, ResourceExhausted
from modalities import bundle

FILES = {bundle.CONFIG: b'{"r":4}', bundle.WEIGHTS: bytes(range(256)) * 8}
FIELDS: dict[str, Any] = {
    "base": "tiny",
    "base_digest": "b" * 64,
    "modality": "text",
    "kind": "classification",
    "suffix": "support",
    "system": "Name the category.",
    "template_digest": "c" * 64,
    "stop_ids": (2,),
    "labels": ("a", "b"),
    "first_layer": 4,
    "dataset": "d" * 64,
    "licence": "Apache-2.0",
    "spec": TrainSpec(method="lora", base="tiny", dataset="d" * 64, suffix="support"),
    "versions": {"torch": "2"},
}


def opened(folder: Path, base: str = "b" * 64, template: str = "c" * 64) -> Any:
    return bundle.open_bundle(folder, base_digest=base, template_digest=template)


@pytest.fixture
def sealed(home: Path) -> Path:
    return bundle.bundle_folder(bundle.seal(FILES, **FIELDS))


def test_a_sealed_bundle_opens_and_is_named_by_its_manifest(sealed: Path) -> None:
    manifest = opened(sealed)
    assert manifest.digest == sealed.name
    assert manifest.stop_ids == (2,) and manifest.files.keys() == FILES.keys()
    assert {entry.name for entry in sealed.parent.iterdir()} == {sealed.name, ".lock"}


def test_sealing_twice_is_sealing_once(sealed: Path) -> None:
    before = (sealed / bundle.WEIGHTS).stat().st_ino
    assert bundle.seal(FILES, **FIELDS) == sealed.name
    assert (sealed / bundle.WEIGHTS).stat().st_ino == before


def test_sealing_heals_a_damaged_bundle(sealed: Path) -> None:
    (sealed / bundle.WEIGHTS).write_bytes(b"")
    bundle.seal(FILES, **FIELDS)
    opened(sealed)


def test_other_content_has_another_digest(sealed: Path) -> None:
    assert bundle.seal(FILES, **FIELDS | {"suffix": "other"}) != sealed.name
    assert bundle.seal({**FILES, bundle.CONFIG: b"{}"}, **FIELDS) != sealed.name


@pytest.mark.parametrize("name", [bundle.CONFIG, bundle.WEIGHTS, bundle.MANIFEST])
def test_a_changed_byte_anywhere_is_refused_by_file(sealed: Path, name: str) -> None:
    data = (sealed / name).read_bytes()
    for position in {0, len(data) // 2, len(data) - 1}:
        (sealed / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(IntegrityError) as caught:
            opened(sealed)
        assert name in str(caught.value)
        assert caught.value.remedy


def test_a_missing_and_a_foreign_file_are_refused(sealed: Path) -> None:
    (sealed / "extra.py").write_text("import os")
    with pytest.raises(IntegrityError, match="extra.py is not part"):
        opened(sealed)
    (sealed / "extra.py").unlink()
    (sealed / bundle.WEIGHTS).unlink()
    with pytest.raises(IntegrityError, match=f"{bundle.WEIGHTS} is missing"):
        opened(sealed)


def test_another_base_and_another_template_are_refused_by_name(sealed: Path) -> None:
    with pytest.raises(IntegrityError, match="base tiny bbbbbbbbbbbb, not on eeeeeeeeeeee"):
        opened(sealed, base="e" * 64)
    with pytest.raises(IntegrityError, match="chat template cccccccccccc, not ffffffffffff"):
        opened(sealed, template="f" * 64)


def test_an_exported_copy_opens_under_any_name(sealed: Path, tmp_path: Path) -> None:
    assert opened(Path(shutil.copytree(sealed, tmp_path / "my-adapter"))).digest == sealed.name


def test_a_renamed_digest_is_refused(sealed: Path) -> None:
    other = sealed.rename(sealed.with_name("0" * 64))
    with pytest.raises(IntegrityError, match=r"manifest\.json was changed"):
        opened(other)


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_an_unreadable_manifest_is_an_integrity_error(sealed: Path, content: str) -> None:
    (sealed / bundle.MANIFEST).write_text(content)
    with pytest.raises(IntegrityError, match="not readable"):
        opened(sealed)


def test_a_folder_without_a_bundle_is_not_found(home: Path) -> None:
    with pytest.raises(NotFound):
        opened(home / "adapters" / ("1" * 64))


def test_a_full_disk_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ResourceExhausted("Writing failed: no space.")

    monkeypatch.setattr(bundle, "write_atomically", full)
    with pytest.raises(ResourceExhausted):
        bundle.seal(FILES, **FIELDS)
    assert {entry.name for entry in (home / "adapters").iterdir()} == {".lock"}


def test_a_kill_while_sealing_leaves_no_bundle_and_the_next_one_cleans_up(home: Path) -> None:
    code = "from modalities import bundle; from tests.modalities.test_bundle import *; bundle.seal(FILES, **FIELDS)"
    environment = {**os.environ, "MOATELIER_HOME": str(home), "MOATELIER_FAULT": "train.sealing"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    marker = home / "faults" / "train.sealing"
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(entry.name.startswith(".") for entry in (home / "adapters").iterdir())
    sealed = bundle.bundle_folder(bundle.seal(FILES, **FIELDS))
    assert {entry.name for entry in sealed.parent.iterdir()} == {sealed.name, ".lock"}
    json.loads((sealed / bundle.MANIFEST).read_text())
