"""Writes down what comes of each public method of the clients while the suite runs: it worked, or it was refused.

Loaded as a plugin (`-p tests.conformance.recording`) it leaves all of it in the file that CONFORMANCE_RECORD names,
for `tests.conformance.table`. In every run it holds the page to what happens.
"""

import functools
import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
OPENAI = {
    "models": ("models", "Models"),
    "chat.completions": ("chat.completions.completions", "Completions"),
    "chat.completions.messages": ("chat.completions.messages", "Messages"),
    "completions": ("completions", "Completions"),
    "embeddings": ("embeddings", "Embeddings"),
    "audio.transcriptions": ("audio.transcriptions", "Transcriptions"),
    "audio.translations": ("audio.translations", "Translations"),
    "audio.speech": ("audio.speech", "Speech"),
    "responses": ("responses.responses", "Responses"),
    "responses.input_items": ("responses.input_items", "InputItems"),
    "responses.input_tokens": ("responses.input_tokens", "InputTokens"),
    "files": ("files", "Files"),
    "uploads": ("uploads.uploads", "Uploads"),
    "uploads.parts": ("uploads.parts", "Parts"),
    "fine_tuning.jobs": ("fine_tuning.jobs.jobs", "Jobs"),
    "fine_tuning.jobs.checkpoints": ("fine_tuning.jobs.checkpoints", "Checkpoints"),
    "fine_tuning.alpha.graders": ("fine_tuning.alpha.graders", "Graders"),
    "evals": ("evals.evals", "Evals"),
    "evals.runs": ("evals.runs.runs", "Runs"),
    "evals.runs.output_items": ("evals.runs.output_items", "OutputItems"),
}
LANGGRAPH = {
    "assistants": "Assistants",
    "threads": "Threads",
    "runs": "Runs",
    "crons": "Cron",
    "store": "Store",
}
LEFT_OUT = {"responses.connect", "threads.stream", "files.retrieve_content"}
"""A websocket; the younger protocol of commands and channels, refused at its first request; a deprecated name."""
Note = dict[str, str]
NOTES: dict[str, Note] = {}
"""`<package> <method> <sync | async>` -> what came of it, and the test that showed it."""


def _public(kind: type, resource: str) -> list[str]:
    found = [name for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"]
    return [name for name in found if f"{resource}.{name}" not in LEFT_OUT]


def methods() -> Iterator[tuple[str, type, str]]:
    """Every public method: what the page calls it with its package and way, its class, its name there."""
    for resource, (module, name) in OPENAI.items():
        loaded = importlib.import_module(f"openai.resources.{module}")
        for way, kind in (("sync", getattr(loaded, name)), ("async", getattr(loaded, f"Async{name}"))):
            yield from ((f"openai {resource}.{method} {way}", kind, method) for method in _public(kind, resource))
    for resource, name in LANGGRAPH.items():
        module = {"crons": "cron"}.get(resource, resource)
        for way, prefix in (("sync", "Sync"), ("async", "")):
            loaded = importlib.import_module(f"langgraph_sdk._{way}.{module}")
            kind = getattr(loaded, f"{prefix}{name}Client")
            yield from (
                (f"langgraph-sdk {resource}.{method} {way}", kind, method) for method in _public(kind, resource)
            )


def _note(key: str, test: str, error: BaseException | None = None) -> None:
    if error is None:
        NOTES[key] = {"result": "works", "test": test}
    elif key not in NOTES and (told := _refusal(error)):
        NOTES[key] = {"result": f"refused: {told}", "test": test}


def _refusal(error: BaseException) -> str:
    """The words of a typed refusal; nothing for any other failure."""
    body: Any = getattr(error, "body", None)
    told = body.get("error", body) if isinstance(body, dict) else {}
    told = told if isinstance(told, dict) else {}
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", 0)
    typed = {"message", "type", "param", "code"} <= told.keys() and 400 <= status < 500
    return str(told["message"]).partition(". ")[0].partition(" (at ")[0].rstrip(".") if typed else ""


def _watched(call: Callable[..., Any], key: str, test: str) -> Callable[..., Any]:
    """The method, with its outcome noted: when it returns, or at the first event of what it streams."""

    @functools.wraps(call)
    def watch(*args: Any, **kwargs: Any) -> Any:
        try:
            made = call(*args, **kwargs)
        except Exception as error:
            _note(key, test, error)
            raise
        if inspect.isgenerator(made):
            return _each(made, key, test)
        if inspect.isasyncgen(made):
            return _aeach(made, key, test)
        if inspect.iscoroutine(made):
            return _awaited(made, key, test)
        if not hasattr(made, "__await__") or hasattr(made, "__aiter__"):  # such as a list, which asks when it is read
            _note(key, test)
        return made

    return watch


async def _awaited(made: Any, key: str, test: str) -> Any:
    try:
        found = await made
    except Exception as error:
        _note(key, test, error)
        raise
    _note(key, test)
    return found


def _each(made: Any, key: str, test: str) -> Iterator[Any]:
    try:
        for part in made:
            _note(key, test)
            yield part
    except Exception as error:
        _note(key, test, error)
        raise


async def _aeach(made: Any, key: str, test: str) -> Any:
    try:
        async for part in made:
            _note(key, test)
            yield part
    except Exception as error:
        _note(key, test, error)
        raise


def page_rows() -> dict[str, tuple[str, ...]]:
    """`<package> <method>` -> the cells of its row on the page."""
    rows, package = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            package = line[3:].split()[0]
        elif match := re.match(r"\| `([\w.]+)` \| (.*) \|$", line):
            rows[f"{package} {match[1]}"] = tuple(cell.strip() for cell in match[2].split(" | "))
    return rows


@pytest.fixture(autouse=True)
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes what this test's calls come to, and that the page says the same of what works."""
    test = f"{Path(request.node.fspath).name}::{request.node.originalname}"
    before, ours = dict(NOTES), {}
    NOTES.clear()
    for key, kind, name in list(methods()):
        monkeypatch.setattr(kind, name, _watched(vars(kind)[name], key, test))
    yield
    ours = dict(NOTES)
    NOTES.update({key: note for key, note in before.items() if key not in ours or note["result"] == "works"})
    if os.environ.get("CONFORMANCE_RECORD") or openai.__version__.startswith("2."):
        return
    told = page_rows()
    worked = {key.rpartition(" ")[0] for key, note in ours.items() if note["result"] == "works"}
    stale = sorted(key for key in worked if key not in told or not told[key][0].startswith("works"))
    assert not stale, f"the page is stale, run `python -m tests.conformance.table`: {stale}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the notes where the table's maker looks for them."""
    if path := os.environ.get("CONFORMANCE_RECORD"):
        Path(path).write_text(json.dumps(NOTES, indent=1), encoding="utf-8")
