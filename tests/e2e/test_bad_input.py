"""The list of bad inputs. Each gets a code, a place and a remedy; nothing is lost, nothing is left behind.

Every test looks at the most public face that is cheap: the command line against the real API and the real graphs, with
canned jobs; or processes of their own where ports, locks and pip matter. The parts have finer tests in their folders.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from filelock import FileLock
from typer.testing import Result

from api.app import create_app
from api.routes.threads import following
from graphs import conversation
from moatelier.errors import MoatelierError
from moatelier.settings import settings
from modalities import bundle, pull
from serving.pool import Pool
from serving.pool import create_app as create_engine
from store import adapters, datasets, keys, tasks
from tests.api.running import running
from tests.e2e.harness import Service, free_port, wait_for
from tests.graphs.conftest import Player
from tests.graphs.conftest import player as player
from tests.moatelier.conftest import Command
from tests.moatelier.conftest import command as command
from tests.modalities.packs import catalogue_file, folder_in_wheel

REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 1 trial"
GOOD = [
    (f"{text} number {number}", label)
    for number in range(12)
    for text, label in [
        ("where is my parcel", "parcel"),
        ("i want my money back", "refund"),
        ("it arrived broken", "broken"),
    ]
]


def csv(*rows: tuple[str, ...], header: str = "message,intent") -> bytes:
    return "\n".join([header, *(",".join(row) for row in rows), ""]).encode()


def debris(folder: Path) -> list[str]:
    """What a write that was given up may leave: drafts, parts, temporary files."""
    ends = (".tmp", ".part", ".payload", ".made", ".pip", ".zip")
    found = [path for path in folder.rglob("*") if path.name[:1] == "." or path.name.endswith(ends)]
    return [str(path.relative_to(folder)) for path in found if not path.name.endswith(".lock")]


def events(done: Result, kind: str) -> list[dict[str, Any]]:
    """What `--json` told, of one kind."""
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line for line in lines if line["kind"] == kind]


def check(error: dict[str, Any], code: str, where: str, *parts: str) -> None:
    """A stable code, the place, a remedy, and the words."""
    assert error["code"] == code, error
    assert where in error["where"], error
    assert error["remedy"], error
    for part in parts:
        assert part in error["what"], error


def raised(done: Result, code: str, *parts: str) -> None:
    """The command ended with our error; the words hold its place and its remedy."""
    assert isinstance(done.exception, MoatelierError), (done.output, done.exception)
    assert done.exception.code == code
    for part in parts:
        assert part in str(done.exception), str(done.exception)


class Desk:
    """A person at the command line who brings files."""

    def __init__(self, command: Command, player: Player, folder: Path) -> None:
        self.command, self.jobs, self.home, self.folder = command, player.jobs, player.home, folder

    def task(self, name: str, content: bytes, request: str = REQUEST) -> Result:
        path = self.folder / name
        path.write_bytes(content)
        return self.command("task", request, "--file", str(path), "--yes", "--json")

    def refused(self, content: bytes, where: str, *parts: str) -> None:
        """The task fails for its data, the upload stays, nothing was trained, no rows were locked, no debris."""
        done = self.task("bad.csv", content)
        assert done.exit_code == 1, done.output
        [error] = events(done, "error")
        check(error, "data_error", where, *parts)
        task = tasks.list_tasks("default")[0]
        assert task.status == "failed" and task.error is not None and task.error["code"] == "data_error"
        file = datasets.get_file("default", task.train_file)
        assert file.name == "bad.csv" and datasets.file_path("default", file.id).read_bytes() == content
        assert not {"train", "evaluate", "gate"} & {kind for kind, _ in self.jobs.ran}
        self.is_clean()

    def is_clean(self) -> None:
        assert adapters.list_adapters("default") == []
        assert list((self.home / "vault").glob("*")) == []
        assert debris(self.home) == []

    def works(self) -> None:
        """A good task goes through, as if nothing had been."""
        done = self.task("good.csv", csv(*GOOD))
        assert done.exit_code == 0, done.output
        assert events(done, "result")[0]["status"] == "reached"


@pytest.fixture
def desk(command: Command, player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for waits in (conversation, following):
        monkeypatch.setattr(waits, "POLL_S", 0.02)
    (tmp_path / "desk").mkdir()
    return Desk(command, player, tmp_path / "desk")


def moatelier(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "moatelier.cli", *words]
    return subprocess.run(call, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False)


def at_work(home: Path) -> list[psutil.Process]:
    """Processes that were started for this data directory."""
    all_ = psutil.process_iter(["environ"])
    return [process for process in all_ if (process.info["environ"] or {}).get("MOATELIER_HOME") == str(home)]


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


# ---------------------------------------------------------------- data


def test_a_missing_or_empty_file(desk: Desk) -> None:
    raised(desk.command("task", REQUEST, "--file", "nowhere.csv"), "data_error", "nowhere.csv", "Check the path")
    raised(desk.task("empty.csv", b""), "data_error", "empty.csv", "Send a file with rows")
    assert tasks.list_tasks("default") == [] and datasets.list_files("default") == []
    desk.refused(b"\xef\xbb\xbf\n \n", "bad.csv", "is empty")
    desk.refused(b"message,intent\n", "bad.csv")
    desk.works()


def test_a_binary_file_or_a_wrong_encoding(desk: Desk) -> None:
    mixed = csv(*GOOD, ("caf\u00e9 au lait", "broken")) + b"caf\xe9 noir,broken\n"
    desk.refused(b"PK\x03\x04" + bytes(range(256)), "bad.csv", "Excel workbook")
    desk.refused(bytes(range(256)) * 8, "bad.csv", "binary")
    desk.refused(mixed, f"bad.csv, line {len(GOOD) + 3}", "not valid UTF-8")
    desk.refused(b"\xff\xfe" + csv(*GOOD).decode().encode("utf-16-le") + b"\x00\xd8", "bad.csv, line", "breaks at byte")
    desk.works()


def test_ragged_rows(desk: Desk) -> None:
    desk.refused(csv(*GOOD[:2], ("hello, world", "broken"), *GOOD), "bad.csv, row 3, line 4", "3 fields", "has 2")
    desk.refused(csv(*GOOD, ("short",)), f"row {len(GOOD) + 1}", "1 fields")
    desk.works()


def test_no_header(desk: Desk) -> None:
    desk.refused(csv(*GOOD[1:], header=",".join(GOOD[0])), "bad.csv, line 1", "no header")
    desk.works()


def test_a_missing_or_all_equal_target(desk: Desk) -> None:
    desk.refused(csv(*((text, "") for text, _ in GOOD)), "bad.csv")
    desk.refused(csv(*((text, "parcel") for text, _ in GOOD)), "bad.csv", "same target", "parcel")
    words = "Classify messages, the target column is intent, at least 80% accuracy"
    asked = desk.task("renamed.csv", csv(*GOOD, header="message,topic"), words)
    assert asked.exit_code == 2
    [asking] = events(asked, "questions")
    assert 'There is no column "intent" in renamed.csv' in asking["questions"][0]["text"]
    assert asking["questions"][0]["choices"][0] == "topic"
    assert desk.command("task", "answer", asking["task"], "topic", "--yes").exit_code == 0


def test_a_class_with_one_row(desk: Desk) -> None:
    desk.refused(csv(*GOOD, ("a letter came", "post")), f"bad.csv, row {len(GOOD) + 1}", "'post' has only one row")
    desk.works()


def test_rows_longer_than_the_context(desk: Desk) -> None:
    long = csv(*GOOD, ("parcel " * 600, "parcel"))
    desk.refused(long, f"bad.csv, row {len(GOOD) + 1}", "512 tokens")
    done = desk.task("bad.csv", long, REQUEST + ", drop rows that are too long")
    assert done.exit_code == 0, done.output


def test_only_duplicates(desk: Desk) -> None:
    desk.refused(csv(*GOOD[:3] * 20), "bad.csv", "copies")
    near = [(f"{text} {'!' * number}", label) for number in range(12) for text, label in GOOD[:2]]
    desk.refused(csv(*near), "bad.csv")
    desk.works()


# ---------------------------------------------------------------- the machine


def test_a_full_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        raised(desk.task("good.csv", csv(*GOOD)), "resource_exhausted", "No space left", "Free some disk")
    assert tasks.list_tasks("default") == [] and datasets.list_files("default") == []
    desk.is_clean()
    probe = desk.jobs._probe

    def probe_and_fill(spec: dict[str, Any]) -> dict[str, Any]:
        disk.setattr(os, "fsync", full)
        return probe(spec)

    with monkeypatch.context() as disk:
        disk.setattr(desk.jobs, "_probe", probe_and_fill)
        done = desk.task("good.csv", csv(*GOOD))
    check(events(done, "error")[0], "resource_exhausted", str(desk.home), "No space left")
    [file] = datasets.list_files("default")
    assert datasets.file_path("default", file.id).read_bytes() == csv(*GOOD)
    desk.is_clean()
    desk.works()


def test_a_disk_that_fills_in_the_middle_of_a_write(home: Path) -> None:
    """The kernel itself refuses: no file of this process may grow beyond 64 KiB."""
    writes = """
        import resource
        from io import BytesIO
        from pathlib import Path
        from moatelier.errors import ResourceExhausted
        from moatelier.job import write_atomically
        from moatelier.settings import settings
        from modalities import bundle
        from store import artifacts
        from tests.modalities.test_bundle import FIELDS

        home, data = settings().home, bytes(1 << 18)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        (home / "old").write_bytes(b"old")
        for write in (
            lambda: write_atomically(home / "old", data),
            lambda: artifacts.put_bytes(data),
            lambda: bundle.seal({bundle.WEIGHTS: data}, **FIELDS),
        ):
            try:
                write()
            except ResourceExhausted as error:
                assert str(home) in error.where and error.remedy, error
                print(error.code)
    """
    call = [sys.executable, "-c", textwrap.dedent(writes)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["resource_exhausted"] * 3, done.stderr
    assert (home / "old").read_bytes() == b"old"
    assert debris(home) == [] and [path for path in (home / "artifacts").rglob("*") if path.is_file()] == []
    assert [path.name for path in (home / "adapters").iterdir()] == [".lock"]


def packed(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A catalogue whose entry comes in a wheel, which pip finds in a folder; the entry."""
    (folder / "links").mkdir()
    entry = folder_in_wheel(model, folder / "links", "moatelier-tiny-pack")
    monkeypatch.setenv("MOATELIER_CATALOGUE", str(catalogue_file(folder / "packed.yaml", entry)))
    monkeypatch.setenv("MOATELIER_CACHE", str(folder / "fresh"))
    monkeypatch.setenv("MOATELIER_BASE", "moatelier-tiny-pack")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "links"))
    settings.cache_clear()
    return entry


def in_cache() -> list[str]:
    return [path.name for path in settings().cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_wrong_checksum(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = packed(tmp_path, tiny_folder, monkeypatch)
    wrong = entry | {"files": entry["files"] | {"model.safetensors": "0" * 64}}
    catalogue_file(tmp_path / "packed.yaml", wrong)
    assert pull.main(["pull", str(entry["id"]), "--json"]) == 1
    error = json.loads(capsys.readouterr().err)["error"]
    check(error, "integrity_error", "inside/model/model.safetensors", "SHA-256")
    assert in_cache() == []
    catalogue_file(tmp_path / "packed.yaml", entry)
    assert pull.main(["pull", str(entry["id"]), "--json"]) == 0
    assert debris(settings().cache) == []


def test_no_network_at_the_first_start(
    desk: Desk, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has to be pulled, and neither index nor wheel can be reached."""
    packed(tmp_path, tiny_folder, monkeypatch)
    monkeypatch.setattr(desk.jobs, "_pull", lambda spec: {"base": spec["base"], "digest": pull.pull(spec["base"])})
    with monkeypatch.context() as cut:
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            cut.delenv(name, raising=False)
        cut.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free_port()}/simple")
        cut.setenv("PIP_RETRIES", "0")
        done = desk.task("good.csv", csv(*GOOD))
    [error] = events(done, "error")
    check(error, "model_unavailable", "moatelier-tiny-pack==1.0.0", "pip cannot get the wheel")
    assert "Check the network" in error["remedy"]
    assert len(datasets.list_files("default")) == 1 and in_cache() == []
    desk.is_clean()
    desk.works()


def test_a_port_in_use(home: Path) -> None:
    before = set(home.rglob("*"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for variable, words in (("MOATELIER_PORT", "serve"), ("MOATELIER_ENGINE_PORT", "task list")):
            ports = {"MOATELIER_PORT": str(free_port()), "MOATELIER_ENGINE_PORT": str(free_port()), variable: port}
            done = moatelier(*words.split(), **ports)
            assert done.returncode == 1 and "Traceback" not in done.stderr
            told = done.stderr.splitlines()[-1]
            assert told.startswith("error [service_running]: "), told
            assert f"(at 127.0.0.1:{port})" in told and f"set {variable} to another port" in told
    assert {path.name for path in set(home.rglob("*")) - before} <= {"service.lock", "service.log"}
    assert at_work(home) == []
    with FileLock(home / "service.lock", timeout=0):
        pass


def test_a_setting_that_names_a_wrong_model(home: Path) -> None:
    for variable, model, code, remedy in (
        ("MOATELIER_EMBEDDING", "all-minilm", "not_found", "Did you mean all-minilm-l6-v2?"),
        ("MOATELIER_EMBEDDING", "whisper-tiny.en", "invalid_request", "For embedding there is all-minilm-l6-v2."),
        ("MOATELIER_BASE", "all-minilm-l6-v2", "invalid_request", "For text there is smollm2-135m-instruct."),
    ):
        ports = {"MOATELIER_PORT": str(free_port()), "MOATELIER_ENGINE_PORT": str(free_port())}
        done = moatelier("serve", **ports, **{variable: model})
        assert done.returncode == 1, done
        told = done.stderr.splitlines()[-1]
        assert told.startswith(f"error [{code}]: ") and f"(at {variable})" in told and told.endswith(remedy), told
    assert at_work(home) == [] and not (home / "service.json").exists()


# ---------------------------------------------------------------- what is served


def test_a_changed_byte_in_a_bundle(desk: Desk) -> None:
    desk.works()
    [record] = adapters.list_adapters("default")
    folder = adapters.bundle_path(record.digest)
    original = (folder / bundle.CONFIG).read_bytes()
    (folder / bundle.CONFIG).write_bytes(bytes([original[0] ^ 1]) + original[1:])
    target = desk.folder / "out.zip"
    done = desk.command("adapters", "export", record.model_id, "--to", str(target))
    raised(done, "integrity_error", bundle.CONFIG, "was changed", "Restore the bundle")
    assert not target.exists() and debris(desk.folder) == []
    with running(create_engine(Pool("tiny"))) as engine, running(create_app(engine)) as url:
        headers = {"authorization": f"Bearer {keys.ensure_admin()}"}
        body = {"model": record.model_id, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "integrity_error", answer.text
        assert bundle.CONFIG in answer.json()["error"]["message"]
        body["model"] = "tiny"
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60).status_code == 200
    (folder / bundle.CONFIG).write_bytes(original)
    assert desk.command("adapters", "export", record.model_id, "--to", str(target)).exit_code == 0


def test_an_unknown_model_id(desk: Desk) -> None:
    desk.works()
    [record] = adapters.list_adapters("default")
    near, out = record.aliases[0] + "x", desk.folder / "out"
    for words in (
        ("chat", "-m", near, "hello"),
        ("predict", "-m", near, "--file", str(desk.folder / "good.csv"), "--output", str(out)),
        ("adapters", "show", near),
        ("adapters", "export", near, "--to", str(out)),
    ):
        raised(desk.command(*words), "not_found", near, record.aliases[0])
        assert not out.exists(), words
    done = moatelier("models", "pull", "smollm", "--json")
    check(json.loads(done.stderr)["error"], "not_found", "smollm")
    assert desk.command("chat", "-m", record.aliases[0], "hello").exit_code == 0


def test_a_wrong_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("MOATELIER_KEY", "mo-wrong")
        settings.cache_clear()
        done = desk.task("good.csv", csv(*GOOD))
        raised(done, "unauthorized", "The API key is wrong", str(desk.home / "keys" / "admin.key"), "MOATELIER_KEY")
        assert "mo-wrong" not in str(done.exception)
    settings.cache_clear()
    assert datasets.list_files("default") == []
    desk.is_clean()
    desk.works()


def test_two_services_on_one_data_directory(tmp_path: Path) -> None:
    first = Service(tmp_path)
    first.launch()
    try:
        place = first.home / "service.json"
        wait_for("the first service to own the directory", place.exists)
        owner = place.read_text()
        second = moatelier("serve", **first.environment | {"MOATELIER_PORT": str(free_port())})
        assert second.returncode == 1
        assert second.stderr.startswith("error [service_running]: Another moatelier service")
        assert str(first.home) in second.stderr and "set MOATELIER_HOME" in second.stderr
        assert place.read_text() == owner
        wait_for("the first one's api", lambda: answers(first.url))
        assert len(at_work(first.home)) == 4
    finally:
        first.stop()
    assert at_work(first.home) == [] and not place.exists()
