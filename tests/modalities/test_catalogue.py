"""The catalogue: entries, ids, folders and digests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moatelier.errors import IntegrityError, InvalidRequest, ModelUnavailable, NotFound
from moatelier.settings import settings
from modalities import catalogue
from modalities.convert import CONVERSIONS
from tests.modalities.packs import catalogue_file


@pytest.fixture
def extra(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a further catalogue file, named in the settings and not written yet."""
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(home / "more.yaml"))
    settings.cache_clear()
    return home / "more.yaml"


def test_the_four_packs_are_pinned(home: Path) -> None:
    packs = {entry.id: entry for entry in catalogue.entries()}
    assert {entry.kind for entry in packs.values()} == {"text", "embedding", "vision", "audio"}
    for entry in packs.values():
        assert entry.files and entry.licence in ("Apache-2.0", "MIT") and entry.summary and entry.parameters
    assert packs[settings().base].kind == "text"
    assert packs["smollm2-135m-instruct"].convert in CONVERSIONS
    assert packs["all-minilm-l6-v2"].convert in CONVERSIONS


def test_an_unknown_id_names_its_neighbours(home: Path) -> None:
    with pytest.raises(NotFound, match="smollm2-135m-instruct") as caught:
        catalogue.get("smolm2-135m")
    assert caught.value.where == "smolm2-135m"
    with pytest.raises(NotFound, match="Known are"):
        catalogue.get("@@@")


def test_the_embedding_model_is_the_one_that_is_set(extra: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue_file(extra, {"id": "mine", "kind": "embedding", "sources": [{"type": "path", "path": "/models/mine"}]})
    assert catalogue.embedding() == "all-minilm-l6-v2"
    monkeypatch.setenv("MOATELIER_EMBEDDING", "mine")
    settings.cache_clear()
    assert catalogue.embedding() == "mine"
    for wrong, told in (("mein", "Did you mean mine"), ("efficientnet-lite0", "For embedding there is .*, mine")):
        monkeypatch.setenv("MOATELIER_EMBEDDING", wrong)
        settings.cache_clear()
        with pytest.raises((NotFound, InvalidRequest), match=told) as caught:
            catalogue.embedding()
        assert caught.value.where == "MOATELIER_EMBEDDING"


def test_entries_of_a_persons_own_come_after_ours(extra: Path) -> None:
    catalogue_file(extra, {"id": "mine", "sources": [{"type": "path", "path": "/models/mine"}]})
    assert [entry.id for entry in catalogue.entries()][-1] == "mine"
    assert not catalogue.is_pulled("mine")


def test_a_repeated_id_is_an_error(extra: Path) -> None:
    catalogue_file(extra, {"id": "all-minilm-l6-v2", "sources": [{"type": "path", "path": "/x"}]})
    with pytest.raises(InvalidRequest, match="two models with the id 'all-minilm-l6-v2'") as caught:
        catalogue.entries()
    assert caught.value.where == str(extra)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", "not YAML"),
        ("- a", "no list `models`"),
        ("models: {a: 1}", "no list `models`"),
        ("models: [{id: x}]", "Model 1 of the catalogue is malformed: name"),
        ("models: [7]", "Model 1 of the catalogue is malformed"),
    ],
)
def test_a_malformed_catalogue_says_where(extra: Path, text: str, words: str) -> None:
    extra.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=words) as caught:
        catalogue.entries()
    assert caught.value.where == str(extra)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../up"},
        {"sources": []},
        {"sources": [{"type": "ftp", "path": "/x"}]},
        {"files": {"a": "no digest"}},
        {"kind": "smell"},
        {"surprise": 1},
    ],
)
def test_malformed_entries_are_refused(extra: Path, change: dict[str, object]) -> None:
    catalogue_file(extra, {"id": "mine", "sources": [{"type": "path", "path": "/x"}]} | change)
    with pytest.raises(InvalidRequest, match="malformed"):
        catalogue.get("mine")


def test_a_missing_catalogue_file_is_named(extra: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read") as caught:
        catalogue.entries()
    assert caught.value.where == str(extra)


def test_a_changed_catalogue_is_read_again(extra: Path) -> None:
    catalogue_file(extra, {"id": "one", "sources": [{"type": "path", "path": "/x"}]})
    catalogue.get("one")
    catalogue_file(extra, {"id": "another", "sources": [{"type": "path", "path": "/x"}]})
    os.utime(extra, ns=(1, 1))
    catalogue.get("another")


def test_a_model_that_is_not_here_says_how_to_get_it(home: Path) -> None:
    for ask in (catalogue.folder, catalogue.base_digest):
        with pytest.raises(ModelUnavailable, match="moatelier models pull smollm2-135m-instruct"):
            ask("smollm2-135m-instruct")


def test_digest_names_the_bytes(tiny: str) -> None:
    folder, digest = catalogue.folder(tiny), catalogue.base_digest(tiny)
    assert len(digest) == 64 and catalogue.is_pulled(tiny)
    assert catalogue.describe(folder, "other", "elsewhere").base_digest == digest
    os.utime(folder / "config.json", ns=(1, 1))  # touched, but the same bytes
    assert catalogue.base_digest(tiny) == digest


@pytest.mark.parametrize("damage", ["changed", "missing", "longer", "pack.json"])
def test_a_changed_file_is_noticed(tiny: str, damage: str) -> None:
    folder = catalogue.folder(tiny)
    file = folder / ("pack.json" if damage == "pack.json" else "model.safetensors")
    data = file.read_bytes()
    file.unlink()
    if damage == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "longer":
        file.write_bytes(data + b"x")
    elif damage == "pack.json":
        file.write_text(json.dumps({"entry": tiny}), encoding="utf-8")
    with pytest.raises(IntegrityError, match="not what was pulled") as caught:
        catalogue.base_digest(tiny)
    assert caught.value.where == str(file)


def test_other_payloads_get_other_folders(home: Path) -> None:
    entry = catalogue.get("smollm2-135m-instruct")
    other = entry.model_copy(update={"files": {"x.gguf": "0" * 64}})
    assert catalogue.target_folder(entry) != catalogue.target_folder(other)


def test_what_others_import_stays_free_of_torch() -> None:
    modules = (
        "modalities.catalogue, modalities.registry, modalities.pull, modalities.text.config, modalities.text.template"
    )
    code = f"import sys, {modules}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
