"""What answers are rewarded for; programs run in a process of their own."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from moatelier.contracts import RewardSpec
from moatelier.errors import DataError, InvalidRequest, NotFound
from moatelier.job import Job
from moatelier.settings import settings
from training import sandbox
from training.rewards import combine

ADD = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"


def earn(tmp_path: Path, answers: list[str], *specs: RewardSpec, **row: Any) -> list[float]:
    asked = [{"row": 1, "messages": [{"role": "user", "content": "Add."}], **row}] * len(answers)
    return combine(specs, asked, Job(tmp_path, quiet=True))(asked, answers)


def test_exact_match_forgives_white_space_only(tmp_path: Path) -> None:
    told = earn(tmp_path, ["a  b\n", "a b.", "A b"], RewardSpec(kind="exact_match"), truth="a b")
    assert told == [1.0, 0.0, 0.0]


def test_a_pattern_matches_the_whole_answer(tmp_path: Path) -> None:
    spec = RewardSpec(kind="regex", pattern=r"\{.*\}")
    assert earn(tmp_path, [' {"a":\n1} ', "so: {}"], spec) == [1.0, 0.0]


def test_a_pattern_that_takes_forever_earns_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    assert earn(tmp_path, ["a" * 40 + "!"], RewardSpec(kind="regex", pattern=r"(a|aa)+$")) == [0.0]
    assert time.monotonic() - began < 60


def test_json_must_satisfy_the_schema(tmp_path: Path) -> None:
    schema = json.dumps({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}})
    answers = ['{"name": "x"}', '{"name": 1}', "{}", '{"name": "x"', "[" * 100_000, 'Here: {"name": "x"}']
    assert earn(tmp_path, answers, RewardSpec(kind="json_schema", json_schema=schema)) == [1.0, 0, 0, 0, 0, 0]


def test_a_schema_is_not_fetched_from_elsewhere(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lure:
        lure.settimeout(0.2)
        place = f"http://127.0.0.1:{lure.getsockname()[1]}/schema"
        spec = RewardSpec(kind="json_schema", json_schema=json.dumps({"$ref": place}))
        with pytest.raises(InvalidRequest, match="does not hold"):
            earn(tmp_path, ["{}"], spec)
        with pytest.raises(TimeoutError):
            lure.accept()


def test_rewards_are_weighed(tmp_path: Path) -> None:
    specs = RewardSpec(kind="json_schema"), RewardSpec(kind="regex", pattern=".*a.*", weight=3)
    assert earn(tmp_path, ["a", '"a"', "1"], *specs) == [0.75, 1.0, 0.25]


# ------------------------------------------------------------------------------------------------- unit tests


def test_code_must_pass_its_tests(tmp_path: Path) -> None:
    answers = [
        "def add(a, b):\n    return a + b",
        "Sure!\n```python\ndef add(a, b):\n    return a + b\n```\nDone.",
        "def add(a, b):\n    return a - b",
        "def add(a, b) return",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
    ]
    assert earn(tmp_path, answers, RewardSpec(kind="unit_test"), tests=ADD) == [1.0, 1.0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "x = bytearray(10**9)",
        "open('big', 'wb').write(bytes(10**8))",
        "import os\nwhile True: os.fork()",
    ],
)
def test_a_program_that_takes_too_much_is_ended(code: str) -> None:
    assert not sandbox.run(code, seconds=1, memory_mb=128)


def test_a_program_that_sleeps_is_ended_too() -> None:
    began = time.monotonic()
    assert not sandbox.run("import time; time.sleep(600)", seconds=0.5, memory_mb=128)
    assert time.monotonic() - began < 60


def test_what_a_program_started_does_not_outlive_it(tmp_path: Path) -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True:\n        time.sleep(0.01)"
    assert sandbox.run(code, seconds=1, memory_mb=128)
    running = [folder for folder in Path("/proc").glob("[0-9]*") if _runs_sandboxed(folder)]
    assert not (apart() and running)


def apart() -> bool:
    """Whether the system lets a program have processes and a network of its own; elsewhere nothing is promised."""
    return sandbox.run("import os\nassert os.getpid() == 1", seconds=5, memory_mb=256)


def _runs_sandboxed(folder: Path) -> bool:
    try:
        state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        return b"sandboxed.py" in (folder / "cmdline").read_bytes() and state not in "ZX"
    except (OSError, IndexError):
        return False


def test_a_program_sees_no_environment_and_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_KEY", "secret")
    code = "import os\nassert 'MOATELIER_KEY' not in os.environ\nopen('mine', 'w').write('x')\n"
    assert sandbox.run(code + "assert 'answer' in os.getcwd()", seconds=5, memory_mb=256)


def test_a_program_reaches_no_network() -> None:
    listener = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        reach = f"import socket\nsocket.create_connection(('127.0.0.1', {listener.server_address[1]}), 2)"
        reached = sandbox.run(reach, seconds=5, memory_mb=256)
        assert not (apart() and reached)
    finally:
        listener.shutdown()
        listener.server_close()


# ------------------------------------------------------------------------------------------------------ judge


class Judge(BaseHTTPRequestHandler):
    """Gives 8 to whatever says please, and otherwise no number."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        told = "8" if "please" in body["messages"][0]["content"].split("The answer:")[1] else "I cannot say."
        answer = json.dumps({"choices": [{"message": {"content": told}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def judge(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = {"judge": {"url": f"http://127.0.0.1:{server.server_address[1]}"}}
    monkeypatch.setenv("MOATELIER_UPSTREAMS", json.dumps(told))
    settings.cache_clear()
    yield "judge"
    server.shutdown()
    server.server_close()


def test_a_judge_grades_from_0_to_10(tmp_path: Path, judge: str) -> None:
    spec = RewardSpec(kind="judge", upstream=judge, model="m", rubric="it is courteous.")
    assert earn(tmp_path, ["yes please", "yes"], spec) == [0.8, 0.0]


# -------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_judge_is_refused(tmp_path: Path, home: Path) -> None:
    with pytest.raises(NotFound, match="No upstream of this name"):
        earn(tmp_path, ["a"], RewardSpec(kind="judge", upstream="nobody"))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (RewardSpec(kind="regex", pattern="("), "no regular expression"),
        (RewardSpec(kind="json_schema", json_schema='{"type": 3}'), "JSON schema cannot be used"),
        (RewardSpec(kind="json_schema", json_schema="{"), "JSON schema cannot be used"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused(tmp_path: Path, spec: RewardSpec, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        earn(tmp_path, ["a"], spec)


@pytest.mark.parametrize("kind", ["exact_match", "unit_test"])
def test_rows_without_what_a_reward_compares_with_are_refused(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(DataError, match="row 1"):
        earn(tmp_path, ["a"], RewardSpec(kind=kind))


def test_no_reward_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="Nothing is rewarded"):
        earn(tmp_path, ["a"])


@pytest.mark.parametrize("kind", ["regex", "judge", "reward_model"])
def test_a_reward_that_lacks_what_it_needs_is_no_spec(kind: Any) -> None:
    with pytest.raises(ValidationError, match="needs"):
        RewardSpec(kind=kind)


def test_a_grader_compares_with_the_rows_truth_or_measures_how_alike_they_are(tmp_path: Path) -> None:
    check = RewardSpec(kind="string_check", operation="ilike")
    assert earn(tmp_path, ["It is FOUR.", "5"], check, truth="four") == [1.0, 0.0]
    alike = RewardSpec(kind="text_similarity", measure="rouge_1")
    assert earn(tmp_path, ["the cat", "a dog"], alike, truth="the cat sat") == [pytest.approx(0.8), 0.0]
    with pytest.raises(DataError, match="truth"):
        earn(tmp_path, ["a"], check)
    with pytest.raises(InvalidRequest, match="cosine"):
        earn(tmp_path, ["a"], RewardSpec(kind="text_similarity", measure="cosine"), truth="a")
