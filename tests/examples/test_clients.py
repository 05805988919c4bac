"""The examples for other people's clients run as they stand, against a real server on loopback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import Service
from tests.api.conftest import service as service
from tests.api.fake_engine import BASE

CLIENTS = Path(__file__).resolve().parents[2] / "examples" / "clients"
NODE = shutil.which("node")
PACKAGES = CLIENTS / "node_modules"
javascript = (
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NODE and (PACKAGES / "openai").exists() and (PACKAGES / "@langchain" / "langgraph-sdk").exists()),
        reason="needs node, and `make clients`",
    ),
)


def run(service: Service, name: str, *arguments: str, said: str = "") -> str:
    """What an example prints."""
    command = [sys.executable if name.endswith(".py") else str(NODE), str(CLIENTS / name), *arguments]
    env = {**os.environ, "OPENAI_BASE_URL": f"{service.url}/v1", "OPENAI_API_KEY": service.key}
    done = subprocess.run(command, env=env, input=said, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "tickets.csv"
    path.write_text("message,intent\na,b\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["answers.py", pytest.param("answers.mjs", marks=javascript)])
def test_a_served_model_is_asked(service: Service, name: str) -> None:
    told = run(service, name)
    assert f"models: {BASE}" in told and f"chat: {BASE}: My parcel is broken" in told
    assert f"completion: {BASE}: The parcel" in told and f"{BASE}: And my card too" in told


@pytest.mark.parametrize("name", ["adapter.py", pytest.param("adapter.mjs", marks=javascript)])
def test_an_adapter_is_made(service: Service, table: str, name: str) -> None:
    told = run(service, name, "Train a classifier", table)
    assert "Train.\n" in told and told.count("progress") == 5 and "reached" in told.splitlines()[-1]


def test_the_same_by_chat_alone(service: Service, table: str) -> None:
    told = run(service, "chat_page.py", said="hello\nmake it better\n\n")
    assert "Attach a file." in told and "How good is good enough?" in told
