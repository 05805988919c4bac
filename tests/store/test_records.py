"""Signed records: signed once, believed only when whole."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from moatelier.contracts import Budget, EvalReport, Interval
from moatelier.errors import IntegrityError, NotFound
from moatelier.settings import settings
from store import db, records
from store.tables import RecordRow


def _report(point: float = 0.9) -> EvalReport:
    interval = Interval(point=point, low=0.8, high=0.95, claim_low=0.81, method="clopper-pearson")
    return EvalReport(subject="a" * 64, split="test", rows=100, kind="classification", metrics={"accuracy": interval})


def test_a_record_comes_back_as_it_was_signed(store: Path) -> None:
    digest = records.sign("p", "eval_report", "a" * 64, "task-1", _report())
    record = records.get("p", "eval_report", "task-1")
    assert record.digest == digest and record.subject == "a" * 64
    assert EvalReport.model_validate(record.body) == _report()
    assert records.list_records("p", "a" * 64) == [record]
    assert records.list_records("other", "a" * 64) == []
    with pytest.raises(NotFound):
        records.get("p", "gate_decision", "task-1")


def test_the_first_signature_stands(store: Path) -> None:
    first = records.sign("p", "gate_decision", "a" * 64, "task-1", _report(0.9))
    assert records.sign("p", "gate_decision", "a" * 64, "task-1", _report(0.1)) == first
    assert records.get("p", "gate_decision", "task-1").body["metrics"]["accuracy"]["point"] == 0.9
    assert records.sign("p", "gate_decision", "a" * 64, "task-2", _report(0.1)) != first


@pytest.mark.parametrize(
    "changed", [{"body": {}}, {"subject": "b" * 64}, {"signature": "00" * 64}, {"signature": "?"}, {"digest": "0" * 64}]
)
def test_a_changed_record_is_refused(store: Path, changed: dict[str, Any]) -> None:
    records.sign("p", "eval_report", "a" * 64, "task-1", _report())
    with db.session() as opened:
        opened.execute(update(RecordRow).values(**changed))
    with pytest.raises(IntegrityError, match="task-1"):
        records.get("p", "eval_report", "task-1")
    with pytest.raises(IntegrityError):
        records.list_records("p", changed.get("subject", "a" * 64))


def test_another_key_is_refused(store: Path) -> None:
    records.sign("p", "router_profile", "a" * 64, "v1", Budget(seconds=1, trials=1))
    (store / "keys" / "signing.pem").unlink()
    with pytest.raises(IntegrityError, match="another key"):
        records.get("p", "router_profile", "v1")


def test_a_broken_key_file_is_named(store: Path) -> None:
    records.public_key()
    (store / "keys" / "signing.pem").write_text("junk")
    with pytest.raises(IntegrityError, match=r"signing\.pem"):
        records.public_key()


def test_processes_that_start_at_once_share_one_key(home: Path) -> None:
    program = "from store import records; print(records.public_key())"
    environment = {"MOATELIER_HOME": str(settings().home)}
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert {process.communicate(timeout=60)[0].decode().strip() for process in started} == {records.public_key()}
    path = home / "keys" / "signing.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.pem"]
