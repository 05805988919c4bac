"""The store's database: one engine a process, short transactions, migrations. `python -m store.db` migrates.

SQLite runs with WAL and one writer: a writing transaction takes the write lock when it begins, so it waits its turn
once and never fails half-way on a lock upgrade. Postgres needs nothing of the sort; where order matters on both, see
`exclusive`.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from moatelier.errors import Conflict, InvalidRequest, MoatelierError, ResourceExhausted
from moatelier.ids import digest_bytes
from moatelier.settings import settings
from store.tables import Base

BUSY_TIMEOUT_S = 15.0
_QUIET: dict[str, Any] = {"hide_parameters": True}
"""An error that reaches a log names the statement, and not what people wrote."""


@cache
def engine() -> Engine:
    """The engine of this process for `settings().store_url`, made at first use."""
    return _connect(settings().store_url)


def dispose() -> None:
    """Close every connection; the next call of `engine` reads the settings anew."""
    if engine.cache_info().currsize:
        engine().dispose()
    engine.cache_clear()


def _connect(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20, **_QUIET)
    settings().home.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = create_engine(url, pool_size=5, max_overflow=60, connect_args={"timeout": BUSY_TIMEOUT_S}, **_QUIET)
    event.listen(made, "connect", _prepare_sqlite)
    event.listen(made, "begin", _begin_sqlite)
    return made


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver must not begin by itself: `_begin_sqlite` does
    connection.execute("PRAGMA journal_mode = WAL").close()
    connection.execute("PRAGMA foreign_keys = ON").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


@contextmanager
def session() -> Iterator[Session]:
    """A writing transaction: committed at the end, rolled back when the body raises. Keep it short.

    Raises:
        ResourceExhausted: The disk is full.
        MoatelierError: The database cannot be reached, is locked, or has not been migrated.
    """
    with translated(), Session(engine(), expire_on_commit=False) as opened, opened.begin():
        opened.connection()  # begin at once, not at the first statement: `exclusive` counts on it
        yield opened


@contextmanager
def reading() -> Iterator[Session]:
    """A transaction that only reads: it sees one moment and waits for no writer. Raises like `session`."""
    with translated(), Session(engine().execution_options(reading=True)) as opened:
        yield opened


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into ours. Theirs are left out of the chain: what Postgres adds quotes rows."""
    try:
        yield
    except DataError as error:
        raise InvalidRequest(f"The store cannot hold this value: {_cause(error)}") from None
    except SQLAlchemyError as error:
        where = make_url(settings().store_url).render_as_string(hide_password=True)
        what = _cause(error)
        if "disk is full" in what or "No space left" in what:
            raise ResourceExhausted(
                f"The store cannot write: {what}", where=where, remedy="Free some disk space and try again."
            ) from None
        raise MoatelierError(f"The store failed: {what}", where=where, remedy=_remedy(what)) from None


def _cause(error: SQLAlchemyError) -> str:
    if not isinstance(error, DBAPIError):
        return str(error).strip()
    told = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    return str(told or error.orig).strip()


def _remedy(what: str) -> str:
    if "no such table" in what or "does not exist" in what:
        return "Bring the store up to date with `python -m store.db`."
    if "locked" in what:
        return "Another process holds the database; try again, and look for a stuck one."
    return "See that the database can be reached and written by this user."


def exclusive(opened: Session, name: str) -> None:
    """From here to the end of the transaction nobody else is in a section of this name.

    A writing transaction on SQLite excludes all others anyway; Postgres takes an advisory lock.
    """
    if opened.get_bind().dialect.name == "postgresql":
        number = int(digest_bytes(name.encode())[:15], 16)
        opened.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def insert_once(
    opened: Session, table: type[Base], rows: Sequence[Mapping[str, Any]], conflict: Sequence[str] = ()
) -> int:
    """Insert rows in order, leaving out those that repeat a unique key; the number of rows that were new.

    Args:
        opened: A writing transaction.
        table: A table of store/tables.py.
        rows: Attribute name -> value.
        conflict: The columns of the key that may repeat; default: any unique key.
    """
    if not rows:
        return 0
    make = postgresql.insert if opened.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = make(table).on_conflict_do_nothing(index_elements=list(conflict) or None)
    new = 0
    for row in rows:  # one by one: only a single statement has a row count on both drivers
        done = opened.execute(statement.values(**row), execution_options={"preserve_rowcount": True})
        new += cast(CursorResult[Any], done).rowcount
    return new


def migrate() -> None:
    """Bring the database to the newest schema. Safe when several processes call it: each does so in turn.

    Raises:
        Conflict: The database was made by a newer Moatelier.
    """
    settings().home.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", "store:migrations")
    with FileLock(settings().home / "store.lock"), session() as opened:
        exclusive(opened, "migrate")
        config.attributes["connection"] = opened.connection()
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Conflict(
                f"The store cannot be migrated: {error}",
                where=make_url(settings().store_url).render_as_string(hide_password=True),
                remedy="It was probably made by a newer Moatelier; install that one.",
            ) from error


if __name__ == "__main__":
    migrate()
