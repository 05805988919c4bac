"""The whole service in this process: the API on loopback, its graphs in threads, canned jobs, a fake engine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from api.app import create_app
from graphs import grading
from store import keys
from tests.api import fake_engine
from tests.api.running import running
from tests.graphs.conftest import FakeJobs, Player


@dataclass(frozen=True)
class Whole:
    """The service and whom it is judged by.

    `client` refuses whatever is not of the package's own types; `lenient` is the package as people use it, for answers
    that its types do not allow though OpenAI's own service gives them.
    """

    url: str
    key: str
    client: openai.OpenAI
    lenient: openai.OpenAI
    player: Player
    engine: fake_engine.Engine

    @property
    def jobs(self) -> FakeJobs:
        return self.player.jobs


@pytest.fixture
def whole(player: Player, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    key, engine = keys.ensure_admin(), fake_engine.Engine(loaded={"tiny": ""})
    with running(fake_engine.create(engine)) as engine_url, running(create_app(engine_url)) as url:
        monkeypatch.setattr(grading, "engine_url", lambda: engine_url)
        told: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": key, "timeout": 30, "max_retries": 0}
        with openai.OpenAI(**told, _strict_response_validation=True) as strict, openai.OpenAI(**told) as lenient:
            yield Whole(url, key, strict, lenient, player, engine)


class Held:
    """Holds a canned job back until it is let go."""

    def __init__(self, jobs: FakeJobs, kind: str) -> None:
        self.begun, self._go = threading.Event(), threading.Event()
        self._wrapped: Callable[..., Any] = getattr(jobs, f"_{kind}")
        setattr(jobs, f"_{kind}", self._hold)

    def _hold(self, spec: dict[str, Any]) -> Any:
        self.begun.set()
        assert self._go.wait(60), "the job was never let go"
        return self._wrapped(spec)

    def let_go(self) -> None:
        self._go.set()


def chat_file(path: Path, rows: int = 60) -> Path:
    """Conversations as OpenAI's fine-tuning takes them, each worded differently."""
    lines = []
    for number in range(rows):
        asked = f"where is parcel {number} that I sent on day {number * 7} to house {number * 13}"
        messages = [
            {"role": "system", "content": "You answer customers."},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": f"It is in depot {number % 5}."},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pairs_file(path: Path, rows: int = 60) -> Path:
    """Preferences as OpenAI's fine-tuning takes them."""
    lines = []
    for number in range(rows):
        asked = {"role": "user", "content": f"what about item {number} of order {number * 17} from shelf {number * 5}"}
        answers = (f"Item {number} is on its way, thank you for asking.", "Wait.")
        liked, other = ([{"role": "assistant", "content": text}] for text in answers)
        row = {"input": {"messages": [asked]}, "preferred_output": liked, "non_preferred_output": other}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def asked_file(path: Path, rows: int = 60) -> Path:
    """Prompts with what is right, as OpenAI's reinforcement fine-tuning takes them."""
    lines = []
    for number in range(rows):
        asked = {"role": "user", "content": f"how much is {number} and {number * 11} and {number * 23}"}
        lines.append(json.dumps({"messages": [asked], "sum": number * 35}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def until(look: Callable[[], Any], done: Callable[[Any], bool], timeout_s: float = 90.0) -> Any:
    """What a look gives once it is what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not done(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found
