"""The database: transactions, errors, migrations."""

import subprocess
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from moatelier.errors import Conflict, MoatelierError
from moatelier.scopes import SCOPES
from moatelier.settings import settings
from store import db, keys, projects, tasks
from store.tables import Base, FileRow


def _file(id: str) -> FileRow:
    return FileRow(id=id, project="p", name="a.csv", purpose="fine-tune", bytes=1, sha256="0" * 64)


def test_models_and_migrations_agree(store: Path) -> None:
    with db.session() as opened:
        context = MigrationContext.configure(opened.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_table_carries_its_project(store: Path) -> None:
    for table in Base.metadata.tables.values():
        assert "project_id" in table.columns, table.name


def test_migrations_go_back(store: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "store:migrations")
    with db.session() as opened:
        config.attributes["connection"] = opened.connection()
        command.downgrade(config, "base")
    with db.reading() as opened:
        assert inspect(opened.connection()).get_table_names() == ["alembic_version"]
    db.migrate()


def test_keys_from_before_scopes_keep_what_they_could_do(store: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "store:migrations")
    with db.session() as opened:
        config.attributes["connection"] = opened.connection()
        command.downgrade(config, "0003")
        old = {"digest": keys.digest_of("mo-old"), "at": "2026-01-01 00:00:00.000000"}
        columns = "INSERT INTO api_keys (id, project_id, name, sha256, created_at)"
        opened.execute(text(f"{columns} VALUES ('key-1', 'shop', 'old', :digest, :at)"), old)
    db.migrate()
    key = keys.check("mo-old")
    assert key is not None and key.scopes == SCOPES and key.expires_at is None
    assert [project.id for project in projects.list_projects()] == ["shop"]
    assert tasks.list_tasks("p") == []


def test_a_body_that_raises_leaves_nothing(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), db.session() as opened:
        opened.add(_file("file-1"))
        opened.flush()
        raise ZeroDivisionError
    with db.reading() as opened:
        assert opened.get(FileRow, "file-1") is None


def test_readers_do_not_wait_for_a_writer(home: Path) -> None:
    with db.session() as writer:
        writer.add(_file("file-1"))
        writer.flush()
        seen: list[FileRow | None] = []

        def read() -> None:
            with db.reading() as opened:
                seen.append(opened.get(FileRow, "file-1"))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(timeout=5)
        assert seen == [None]


def test_writers_take_turns_without_lock_errors(home: Path) -> None:
    def count() -> None:
        for _ in range(20):
            with db.session() as opened:
                row = opened.get(FileRow, "file-1")
                assert row is not None
                row.bytes += 1  # read, then write: where a deferred transaction would fail with "database is locked"

    with db.session() as opened:
        opened.add(_file("file-1"))
    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.reading() as opened:
        row = opened.get(FileRow, "file-1")
        assert row is not None and row.bytes == 121


def test_a_writer_that_never_ends_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.1)
    db.dispose()
    with db.session(), pytest.raises(MoatelierError, match="locked.*look for a stuck one"), db.session():
        pass


def test_times_are_read_back_in_utc(store: Path) -> None:
    east = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    with db.session() as opened:
        row = _file("file-1")
        row.created_at = east
        opened.add(row)
    with db.reading() as opened:
        read = opened.get_one(FileRow, "file-1").created_at
    assert read == east and read.tzinfo is UTC


def test_sqlite_is_set_up_for_several_processes(home: Path) -> None:
    with db.reading() as opened:
        assert opened.scalar(text("PRAGMA journal_mode")) == "wal"
        assert opened.scalar(text("PRAGMA foreign_keys")) == 1
        assert opened.scalar(text("PRAGMA busy_timeout")) == 15_000


def test_a_store_that_was_never_migrated_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOATELIER_HOME", str(tmp_path / "new"))
    settings.cache_clear()
    db.dispose()
    with pytest.raises(MoatelierError, match="no such table.*python -m store.db"):
        tasks.list_tasks("p")
    db.dispose()
    settings.cache_clear()


def test_a_newer_store_is_refused(home: Path) -> None:
    with db.session() as opened:
        opened.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="newer Moatelier"):
        db.migrate()


def test_a_full_disk_is_told_apart(home: Path) -> None:
    with db.reading() as opened:
        pages = opened.scalar(text("PRAGMA page_count"))

    def fill() -> None:
        with db.session() as opened:
            opened.execute(text(f"PRAGMA max_page_count = {pages}"))
            for number in range(1000):
                opened.add(_file(f"file-{number}"))

    with pytest.raises(MoatelierError) as caught:
        fill()
    assert caught.value.code == "resource_exhausted" and "disk is full" in caught.value.what
    db.dispose()
    with db.reading() as opened:
        assert opened.get(FileRow, "file-0") is None


def test_processes_migrate_at_once(tmp_path: Path) -> None:
    environment = {"MOATELIER_HOME": str(tmp_path / "home"), "PYTHONWARNINGS": "error"}
    argv = [sys.executable, "-m", "store.db"]
    processes = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()


def test_what_postgres_quotes_of_a_row_is_kept_out_of_the_error(store: Path) -> None:
    with db.session() as opened:
        opened.add(_file("my-card-is-4111"))
    with pytest.raises(MoatelierError) as caught, db.session() as opened:
        opened.add(_file("my-card-is-4111"))
    told = "".join(traceback.format_exception(caught.value))
    assert "my-card" not in told and "unique" in str(caught.value).lower()
