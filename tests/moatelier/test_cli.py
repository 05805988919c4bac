"""The command line as a person uses it: a task from its sentence to its report, questions, errors, JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moatelier import cli
from moatelier.client import Client
from moatelier.errors import Conflict, InvalidRequest, MoatelierError, ModelUnavailable, UpstreamError
from moatelier.settings import settings
from tests import fakes
from tests.api.conftest import make_adapter
from tests.graphs.conftest import FakeJobs, report
from tests.graphs.test_routing import pulled as pulled
from tests.moatelier.conftest import Command

REQUEST = "Train a classifier that predicts intent from message, at least 80% accuracy, at most 1 trial"


@pytest.fixture
def csv(tmp_path: Path) -> str:
    return str(fakes.support_csv(tmp_path / "support.csv"))


def _results(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_a_task_runs_to_its_end_and_can_be_looked_at(command: Command, csv: str, tmp_path: Path) -> None:
    done = command("task", REQUEST, "--file", csv, "--yes")
    assert done.exit_code == 0, done.output
    assert "from" in done.output and "the goal of 80.0% is reached" in " ".join(done.output.split())
    [task] = json.loads(command("task", "list", "--json").stdout)
    assert task["status"] == "reached"
    assert json.loads(command("task", "show", task["id"], "--json").stdout)["result"]["promoted"]
    assert "reached" in command("task", "show", task["id"]).stdout
    watched = _results(command("task", "watch", task["id"], "--json").stdout)
    assert [line["status"] for line in watched if line["kind"] == "status"][:2] == ["planning", "awaiting_approval"]
    assert command("report", task["id"], "--to", str(tmp_path / "report")).exit_code == 0
    assert (tmp_path / "report" / "index.html").exists() and (tmp_path / "report" / "MODEL_CARD.md").exists()
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    shown = json.loads(command("adapters", "show", adapter["model_id"]).stdout)
    assert shown["digest"] == adapter["digest"]
    exported = command("adapters", "export", adapter["model_id"], "--to", str(tmp_path / "adapter.zip"))
    assert exported.exit_code == 0 and (tmp_path / "adapter.zip").stat().st_size > 0


def test_a_task_shows_why_its_trials_were_made(command: Command, csv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeJobs, "_evaluate", lambda _, spec: report(spec["bundle"], spec["split"], 0.5).model_dump())
    command("task", REQUEST.replace("1 trial", "2 trials"), "--file", csv, "--yes")
    [task] = json.loads(command("task", "list", "--json").stdout)
    shown = json.loads(command("task", "show", task["id"], "--json").stdout)
    [line] = shown["ledger"]
    assert (line["trial"], line["action"], line["effect"]) == (1, "half_more_epochs", 0.0)
    page = " ".join(command("task", "show", task["id"]).stdout.split())
    assert "trials made for a reason" in page and "+0.000" in page


def test_a_person_is_asked_and_the_answer_goes_on(command: Command, csv: str) -> None:
    done = command("task", "make it better", "--file", csv, said="at least 80% accuracy\nyes\n")
    assert done.exit_code == 0, done.output
    assert "goal" in done.output.lower()


def test_without_a_person_the_question_stays_open_and_can_be_answered_later(command: Command, csv: str) -> None:
    asked = command("task", "start", "make it better", "--file", csv)
    assert asked.exit_code == 2 and "moatelier task answer" in asked.output
    [task] = json.loads(command("task", "list", "--json").stdout)
    assert task["status"] == "awaiting_input"
    answered = command("task", "answer", task["id"], "80% accuracy", "--yes")
    assert answered.exit_code == 0, answered.output
    assert json.loads(command("task", "show", task["id"], "--json").stdout)["status"] == "reached"


def test_a_goal_not_reached_has_an_exit_status_of_its_own(command: Command, csv: str, jobs: FakeJobs) -> None:
    jobs.score = 0.5
    done = command("task", REQUEST, "--file", csv, "--yes", "--json")
    assert done.exit_code == 3
    result = next(line for line in _results(done.stdout) if line["kind"] == "result")
    assert result["status"] == "not_reached" and result["point"] == 0.5


def test_saying_no_rejects(command: Command, csv: str) -> None:
    command("task", REQUEST, "--file", csv, said="no\n")
    [task] = json.loads(command("task", "list", "--json").stdout)
    assert task["status"] == "rejected"


def test_cancel_ends_a_waiting_task(command: Command, csv: str) -> None:
    command("task", REQUEST, "--file", csv)
    [task] = json.loads(command("task", "list", "--json").stdout)
    assert command("task", "cancel", task["id"]).exit_code == 0
    command("task", "watch", task["id"])
    assert json.loads(command("task", "show", task["id"], "--json").stdout)["status"] == "cancelled"


def test_predict_answers_a_text_and_every_row_of_a_file(command: Command, csv: str, tmp_path: Path) -> None:
    command("task", REQUEST, "--file", csv, "--yes")
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    one = command("predict", "-m", adapter["model_id"], "hello there")
    assert one.exit_code == 0 and one.stdout.strip()
    rows = tmp_path / "rows.csv"
    rows.write_text("number,message\n1,hello\n2,there\n")
    many = command(
        "predict", "-m", adapter["model_id"], "-f", str(rows), "--column", "message", "-o", str(tmp_path / "out.csv")
    )
    assert many.exit_code == 0, many.output
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "number,message,prediction" and len(lines) == 3


def test_an_answers_id_is_told_beside_it_and_takes_feedback(command: Command, csv: str) -> None:
    command("task", REQUEST, "--file", csv, "--yes")
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    said = command("chat", "-m", adapter["aliases"][0], "hello there")
    assert said.exit_code == 0 and said.stdout.endswith("hello there \n") and "chatcmpl" not in said.stdout
    [completion] = re.findall(r"^\[(chatcmpl-\S+) by (\S+)\]$", said.stderr, re.M)
    assert completion[1] == adapter["model_id"], "the alias asked, the adapter answered"
    kept = command("feedback", completion[0], "--good")
    assert kept.exit_code == 0 and adapter["digest"] in kept.stdout
    told = json.loads(command("chat", "-m", adapter["model_id"], "hello", "--json").stdout)
    assert set(told) == {"id", "model", "content"} and told["content"].endswith("hello ")
    edited = json.loads(command("feedback", told["id"], "--edit", "Hello!", "--json").stdout)
    assert (edited["completion"], edited["edit"]) == (told["id"], "Hello!")


def test_who_stayed_out_of_auto_enters_when_asked(
    command: Command, csv: str, jobs: FakeJobs, request: pytest.FixtureRequest
) -> None:
    command("task", REQUEST, "--file", csv, "--yes")
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    off = command("adapters", "route", adapter["model_id"])
    assert isinstance(off.exception, ModelUnavailable) and "models pull" in str(off.exception)
    request.getfixturevalue("pulled")
    jobs.told_apart = 0.5
    out = command("adapters", "route", adapter["model_id"])
    assert out.exit_code == 0 and "cannot be told from" in out.stdout
    jobs.told_apart = 1.0
    entry = json.loads(command("adapters", "route", adapter["aliases"][0], "--json").stdout)
    assert entry["joined"] and entry["adapter"] == adapter["digest"]
    assert json.loads(command("adapters", "card", adapter["model_id"], "--json").stdout)["adapters"]


def test_an_adapter_of_another_base_does_not_enter(command: Command, csv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command("task", REQUEST, "--file", csv, "--yes")
    [adapter] = json.loads(command("adapters", "list", "--json").stdout)
    monkeypatch.setenv("MOATELIER_BASE", "smollm2-135m-instruct")
    settings.cache_clear()
    done = command("adapters", "route", adapter["model_id"])
    assert isinstance(done.exception, Conflict) and "tuned on tiny" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task", REQUEST, "--file", "no-such.csv"), "no such file"),
        (("adapters", "route", "no-such-model"), "no-such-model"),
        (("task", "show", "task-000000000000"), "no such task"),
        (("adapters", "show", "no-such-model"), "no-such-model"),
        (("predict", "-m", "x"), "one text or one --file"),
    ],
)
def test_an_error_says_what_and_where(command: Command, words: tuple[str, ...], told: str) -> None:
    done = command(*words)
    assert isinstance(done.exception, MoatelierError) and told in str(done.exception).lower()


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"message\nhello, there\n", "row 1"), (b"message\n\xff\xfe\xff\n", "cannot be read"), (b"message\n", "no rows")],
)
def test_a_file_that_cannot_be_predicted_is_refused(home: Path, tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    done = CliRunner().invoke(cli.app, ["predict", "-m", "x", "-f", str(tmp_path / "rows.csv")])
    assert isinstance(done.exception, MoatelierError) and told in str(done.exception)


def test_predictions_do_not_go_into_the_file_that_is_read(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("message\nhello\n")
    done = CliRunner().invoke(cli.app, ["predict", "-m", "x", "-f", str(rows), "-o", str(rows)])
    assert isinstance(done.exception, MoatelierError) and rows.read_text() == "message\nhello\n"


def test_a_service_that_hangs_up_is_an_error_of_ours() -> None:
    client = Client("http://127.0.0.1:9", "mo-key")  # nobody listens on the discard port
    with client.http:
        with pytest.raises(UpstreamError, match="does not answer"):
            client.call("GET", "/tasks")
        with pytest.raises(UpstreamError, match="does not answer"):
            next(client.stream("GET", "/tasks/x/events"))


def test_a_wrong_key_says_where_the_right_one_is(command: Command, home: Path) -> None:
    (home / "keys" / "admin.key").write_text("mo-wrong")
    done = command("task", "list")
    assert isinstance(done.exception, MoatelierError) and done.exception.code == "unauthorized"
    assert "admin.key" in str(done.exception)


def test_the_entry_point_prints_one_line_and_exits_with_1(home: Path, tmp_path: Path) -> None:
    words = ["predict", "-m", "x"]
    plain = subprocess.run([sys.executable, "-m", "moatelier.cli", *words], capture_output=True, text=True, check=False)
    assert plain.returncode == 1 and plain.stderr.startswith("error [data_error]: ") and "Traceback" not in plain.stderr


def test_an_error_of_the_system_is_told_like_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = subprocess.run(
        [sys.executable, "-m", "moatelier.cli", "task", "list", "--json"],
        env=os.environ | {"MOATELIER_HOME": str(tmp_path / "file" / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert done.returncode == 1 and error["code"] == "invalid_request"
    assert error["where"].startswith(str(tmp_path / "file")) and error["remedy"]


def test_help_needs_no_heavy_module() -> None:
    check = (
        "import moatelier.cli, sys; print([m for m in ('httpx', 'torch', 'psutil', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_doctor_looks_at_the_machine(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moatelier.cli", "doctor", "--json"], capture_output=True, text=True, check=False
    )
    names = [check["name"] for check in json.loads(done.stdout)]
    assert names == ["python", "packages", "disk", "memory", "data directory", "base model", "service"]


def test_adapters_are_mixed_and_the_table_is_shown(command: Command, tmp_path: Path) -> None:
    names = [make_adapter(f"task-{seed}", seed=seed).model_id for seed in (0, 1)]
    words = ("adapters", "mix", *names, "--method", "ties", "--density", "0.5", "--weights", "0.5,0.5")
    done = command(*words, "--name", "both")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "also known as both" in told and "85.0%" in told and "points" in told
    made = json.loads(command(*words, "--name", "both", "--json").stdout)
    assert made["mixing"]["method"] == "ties" and made["model"].split(":")[2] == "both"
    taken = command(*words[:-1], "0.7,0.3", "--name", "both")
    assert isinstance(taken.exception, Conflict) and "already names" in str(taken.exception)
    wrong = command(*words[:-1], "half,half", "--name", "other")
    assert isinstance(wrong.exception, InvalidRequest) and wrong.exception.where == "--weights"


def test_an_export_for_other_programs_is_fetched_as_a_folder_or_a_zip(command: Command, tmp_path: Path) -> None:
    name, folder = make_adapter().model_id, tmp_path / "out"
    words = ("adapters", "export", name, "--format", "gguf", "--numbers", "q8_0")
    done = command(*words, "--to", str(folder))
    assert done.exit_code == 0, done.output
    assert "16 of 16 answers are ours" in " ".join(done.output.split())
    parity = json.loads((folder / "parity.json").read_bytes())
    assert (folder / "model.bin").read_bytes() == b"weights" and parity["numbers"] == "q8_0"
    packed = tmp_path / "out.zip"
    told = json.loads(command(*words, "--to", str(packed), "--json").stdout)
    assert told["parity"] == parity and told["bytes"] == packed.stat().st_size
    assert command("adapters", "export", name, "--to", str(tmp_path / "sealed")).exit_code == 0
    assert (tmp_path / "sealed" / "manifest.json").exists()
    wrong = command("adapters", "export", name, "--format", "tarot", "--to", str(tmp_path / "x"))
    assert isinstance(wrong.exception, InvalidRequest) and not (tmp_path / "x").exists()
