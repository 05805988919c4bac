"""The audit log: a chain that shows where it was broken."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from moatelier.errors import IntegrityError
from store import audit, db
from store.tables import AuditRow


def _fill(lines: int = 4) -> None:
    for number in range(lines):
        audit.write(
            "p", "ann", "task.approve", f"task-{number}", {"version": "ä", "seconds": 0.1 * number, "t": (1, 2)}
        )


def test_a_whole_chain_is_counted(store: Path) -> None:
    assert audit.verify() == 0
    _fill()
    audit.write("other", "bob", "key.create", "key-1", {})
    assert audit.verify() == 5
    lines = audit.read("p")
    assert [line.id for line in lines] == [1, 2, 3, 4]
    assert lines[1].previous == lines[0].hash
    assert [line.subject for line in audit.read("p", after=2, limit=1)] == ["task-2"]


@pytest.mark.parametrize(
    "changed",
    [{"actor": "eve"}, {"body": {"version": "x"}}, {"project": "other"}, {"hash": "0" * 64}, {"previous": "1" * 64}],
)
def test_a_changed_line_is_named(store: Path, changed: dict[str, object]) -> None:
    _fill()
    with db.session() as opened:
        opened.execute(update(AuditRow).where(AuditRow.id == 3).values(**changed))
    with pytest.raises(IntegrityError, match="line 3"):
        audit.verify()


def test_a_line_taken_out_is_seen(store: Path) -> None:
    _fill()
    with db.session() as opened:
        opened.execute(delete(AuditRow).where(AuditRow.id == 2))
    with pytest.raises(IntegrityError, match="line 2"):
        audit.verify()


def test_a_line_stands_or_falls_with_its_transaction(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), db.session() as opened:
        audit.write("p", "ann", "alias.set", "champion", {}, within=opened)
        raise ZeroDivisionError
    assert audit.verify() == 0


def test_many_writers_make_one_chain(store: Path) -> None:
    threads = [threading.Thread(target=_fill, args=(5,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify() == 20
