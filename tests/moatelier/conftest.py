"""The command line against the real API in this process, with canned jobs and a fake engine behind it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.app import create_app
from moatelier import cli
from store import keys
from tests.api import fake_engine
from tests.api.running import running
from tests.graphs.conftest import FakeJobs, Player
from tests.graphs.conftest import player as player

Command = Callable[..., Result]


@pytest.fixture
def jobs(player: Player) -> FakeJobs:
    return player.jobs


@pytest.fixture
def command(player: Player, home: Path) -> Iterator[Command]:
    """Runs one command line against a running service; `said` is what the person types."""
    keys.ensure_admin()
    heartbeat = home / "worker.heartbeat"
    heartbeat.touch()
    os.utime(heartbeat, (time.time() + 600, time.time() + 600))  # no worker beats here; runs advance in threads
    with running(fake_engine.create(fake_engine.Engine())) as engine, running(create_app(engine)) as url:
        (home / "service.json").write_text(json.dumps({"url": url, "pid": 0}))

        def run(*words: str, said: str = "") -> Result:
            return CliRunner().invoke(cli.app, list(words), input=said)

        yield run
