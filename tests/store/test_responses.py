"""Stored answers: how many are kept, and how long."""

from datetime import timedelta
from pathlib import Path

import pytest

from moatelier.contracts import now
from moatelier.errors import NotFound
from store import db, responses
from store.tables import ResponseRow


def put(id: str, project: str = "p", days: float = 0.0) -> None:
    responses.put(project, id, previous=None, items=[], body={})
    with db.session() as opened:
        opened.get_one(ResponseRow, id).created_at = now() - timedelta(days=days)


def kept(*ids: str, project: str = "p") -> list[str]:
    found = []
    for id in ids:
        try:
            found.append(responses.get(project, id).id)
        except NotFound:
            continue
    return found


def test_old_answers_and_those_beyond_the_most_are_forgotten(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MOST", 2)
    put("elsewhere", project="q", days=40)
    put("old", days=31)
    put("one", days=3)
    assert kept("old", "one") == ["one"]
    put("two", days=2)
    put("three", days=1)
    assert kept("one", "two", "three") == ["two", "three"]
    assert kept("elsewhere", project="q") == ["elsewhere"]
