"""Runs the suite and writes docs/conformance.md: every public method of both clients, and what came of it.

python -m tests.conformance.table                  # with openai as installed, and with a 2.x from the package index
python -m tests.conformance.table --only-installed
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

from tests.conformance.recording import NOTES, OPENAI, PAGE, Note, methods

ROOT = Path(__file__).resolve().parents[2]
Notes = dict[str, Note]
HEAD = """\
# Conformance

What the unmodified clients were answered by a real server on loopback, written by `python -m tests.conformance.table`
from a run of `tests/conformance`; tests hold it to what happens. *works*: the call came back as its package reads it,
in the ways that are named. *refused*: a typed error of the envelope, with these words. *not run*: no test calls it. The
last column is a test that shows it. Left out: `responses.connect` (a websocket) and `threads.stream` (the younger
protocol of commands and channels, which is refused).
"""


def install_2(folder: Path) -> None:
    """The newest openai 2.x in a folder of its own, from the package index."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(folder), "openai>=2,<3"], check=True)


def run(*arguments: str, first: Path | None = None) -> tuple[int, Notes, str]:
    """Run the suite in a process of its own; its exit status, its notes, and what it said.

    Args:
        *arguments: Of pytest: which files.
        first: A folder whose packages come before the installed ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "notes.json"
        paths = [str(path) for path in (first, ROOT) if path]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CONFORMANCE_RECORD": str(record)}
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "tests.conformance.recording", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        notes = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        return done.returncode, notes, done.stdout + done.stderr


def openai_files() -> list[str]:
    """The tests that judge by openai alone."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/conformance").glob("test_openai_*.py"))


def page(notes: Notes, older: Notes | None, older_version: str) -> str:
    """The page.

    Args:
        notes: Of the whole suite.
        older: Of the openai part under a 2.x; None when it was not run.
        older_version: Which.
    """
    rows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, _, _ in methods():
        package, method, way = key.split(" ")
        rows[package][method].append(way)
    parts = [HEAD]
    for package, found in rows.items():
        also = f", and {older_version}" if package == "openai" and older is not None else ""
        columns = ["method", "result", "sync and async", "shown by"]
        columns[3:3] = ["2.x"] if also else []
        parts += [f"## {package} {version(package)}{also}", "", f"| {' | '.join(columns)} |"]
        parts.append("|" + "---|" * len(columns))
        for method, ways in found.items():
            told = {way: notes[key] for way in ways if (key := f"{package} {method} {way}") in notes}
            cells = [_result(told), ", ".join(told) or "-", _test(told)]
            if also:
                cells.insert(2, _older(older or {}, f"{package} {method}", ways))
            parts.append(f"| `{method}` | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def _result(told: dict[str, Note]) -> str:
    results = sorted({note["result"] for note in told.values()}, reverse=True)
    return results[0] if results else "not run"


def _test(told: dict[str, Note]) -> str:
    best = sorted(told.values(), key=lambda note: note["result"], reverse=True)
    return f"`{best[0]['test']}`" if best else "-"


def _older(notes: Notes, method: str, ways: list[str]) -> str:
    told = {way: notes[key] for way in ways if (key := f"{method} {way}") in notes}
    return _result(told).partition(":")[0] if told else "-"


def main(arguments: list[str]) -> int:
    """Write the page; 1 when a test failed."""
    status, notes, said = run("tests/conformance", "--ignore=tests/conformance/test_table.py")
    older, older_version = None, ""
    if "--only-installed" not in arguments:
        with tempfile.TemporaryDirectory() as folder:
            install_2(Path(folder))
            older_version = next(path.name.split("-")[1] for path in Path(folder).glob("openai-*.dist-info"))
            older_version = older_version.removesuffix(".dist")
            again, older, more = run(*openai_files(), first=Path(folder))
            status, said = status or again, said + more
    if status:
        print(said[-5000:], file=sys.stderr)
        return 1
    PAGE.write_text(page(notes, older, older_version), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(notes)} calls of {len(OPENAI)} resources of openai and of langgraph-sdk")
    return 0


if __name__ == "__main__":
    NOTES.clear()
    sys.exit(main(sys.argv[1:]))
