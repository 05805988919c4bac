"""The structure holds: names are ours, layers stay light, files stay small, the README tells the truth."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["moatelier", "store", "modalities", "training", "evals", "serving", "agents", "graphs", "api"]
LIGHT = [
    "moatelier.cli",
    "store.tasks",
    "modalities.text.data",
    "modalities.vision.data",
    "modalities.audio.data",
    "agents.planner",
    "graphs.worker",
    "api.app",
]
LIGHT += ["serving.upstream", "evals.statistics", "evals.report"]
LIGHT += ["graphs.answering", "graphs.held_out", "graphs.candidates"]
TENSOR_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "whisper",
    "open_clip",
    "timm",
    "torchvision",
    "sentence_transformers",
)


@pytest.mark.parametrize("name", [*PACKAGES, "tests"])
def test_a_top_level_name_is_this_projects(name: str) -> None:
    """openai-agents ships a package `agents`; ours must be the one that is imported."""
    file = importlib.import_module(name).__file__
    assert file is not None and Path(file).is_relative_to(ROOT)


@pytest.mark.parametrize("module", LIGHT)
def test_starts_without_torch(module: str) -> None:
    check = f"import {module}, sys; print([n for n in {TENSOR_LIBRARIES!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def _sources() -> list[Path]:
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def test_files_stay_small() -> None:
    long = {str(path.relative_to(ROOT)): n for path in _sources() if (n := len(path.read_text().splitlines())) > 400}
    assert not long, "split them: one idea a file"


def test_only_settings_reads_the_environment() -> None:
    """`os.environ` elsewhere may only hand the environment, or a pipe, to or from a child process."""
    allowed = {"moatelier/job.py", "moatelier/supervisor.py", "moatelier/client.py", "graphs/processes.py"}
    reading = re.compile(r"os\.environ\[|os\.environ\.get|os\.getenv")
    found = {str(path.relative_to(ROOT)) for path in _sources() if reading.search(path.read_text())}
    assert found <= allowed | {"moatelier/settings.py"}


def test_every_module_says_what_it_is_for() -> None:
    bare = [
        str(p.relative_to(ROOT)) for p in _sources() if p.read_text() and not p.read_text().startswith(('"""', 'r"""'))
    ]
    assert not bare


def test_the_readme_names_every_top_level_folder_and_both_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
    missing = [
        name for name in [*PACKAGES, "web", "benchmarks", "examples", "docs", "tests"] if f"{name}/" not in readme
    ]
    assert not missing
