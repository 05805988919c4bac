"""The store on both databases: a test that takes `store` runs on SQLite and on Postgres, where one can be started."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from moatelier.contracts import AdapterManifest, CurationReport, DatasetCard, SplitInfo, TrainSpec
from moatelier.contracts import Columns as PlanColumns
from moatelier.settings import settings
from store import db
from store.tables import Base


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a Postgres server of our own, on a Unix socket, gone after the tests."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl") and importlib.util.find_spec("psycopg")):
        pytest.skip("no Postgres server programs on this machine")
    user = "postgres" if os.geteuid() == 0 else None  # Postgres refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    start = ["pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "user": user, "cwd": folder, "check": True}
    subprocess.run(["initdb", "-D", str(data), "-A", "trust", "-U", "moatelier", "-E", "UTF8"], **quiet)
    subprocess.run(start, **quiet)
    try:
        yield f"postgresql+psycopg://moatelier@/postgres?host={folder}"
    finally:
        subprocess.run(["pg_ctl", "-D", str(data), "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data directory of a fresh, migrated store on this database."""
    if request.param == "postgres":
        monkeypatch.setenv("MOATELIER_DATABASE_URL", request.getfixturevalue("postgres"))
        db.dispose()
        settings.cache_clear()
        db.migrate()
        with db.session() as opened:
            tables = ", ".join(f'"{name}"' for name in Base.metadata.tables)
            opened.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    yield home
    db.dispose()


@pytest.fixture
def manifest() -> AdapterManifest:
    """The manifest of some adapter."""
    spec = TrainSpec(method="lora", base="tiny", dataset="d" * 64, suffix="support")
    return AdapterManifest(
        base="tiny",
        base_digest="b" * 64,
        modality="text",
        kind="classification",
        suffix="support",
        system="Name the category of the message.",
        template_digest="t" * 64,
        stop_ids=(2,),
        labels=("parcel", "refund"),
        first_layer=4,
        dataset="d" * 64,
        licence="unknown",
        spec=spec,
        versions={"moatelier": "0.1.0"},
        files={"adapter_model.safetensors": "a" * 64},
    )


@pytest.fixture
def card() -> DatasetCard:
    """The card of some dataset."""
    report = CurationReport(
        rows_read=12,
        rows_kept=10,
        exact_duplicates=1,
        near_duplicate_clusters=0,
        near_duplicates_of_test=0,
        conflicting_labels=1,
        dropped={3: "an exact duplicate of row 1", 11: "its label conflicts with row 7"},
    )
    return DatasetCard(
        name="support",
        source="5" * 64,
        test_source=None,
        licence="unknown",
        modality="text",
        kind="classification",
        columns=PlanColumns(input="message", target="intent"),
        labels=("parcel", "refund"),
        splits={
            "train": SplitInfo(rows=6, artifact="1" * 64, labels={"parcel": 3, "refund": 3}),
            "test": SplitInfo(rows=2, artifact=None),
        },
        locked="e" * 64,
        report=report,
    )
