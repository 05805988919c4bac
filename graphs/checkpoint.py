"""Where graphs keep their checkpoints: a database file of its own, with a strict serializer."""

import sqlite3
from functools import cache

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from moatelier.settings import settings


@cache
def saver() -> SqliteSaver:
    """The process's one checkpointer on `<home>/checkpoints.db`; only JSON-able values pass its serializer."""
    connection = sqlite3.connect(settings().home / "checkpoints.db", check_same_thread=False, timeout=15)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=15000")
    checkpointer = SqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    checkpointer.setup()
    return checkpointer


def prune(thread: str) -> None:
    """Keep only the newest checkpoint of a thread that has ended; its history is in the event log."""
    with saver().cursor() as cursor:
        cursor.execute(
            "DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_id < "
            "(SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?)",
            (thread, thread),
        )
        cursor.execute(
            "DELETE FROM writes WHERE thread_id = ? AND checkpoint_id NOT IN "
            "(SELECT checkpoint_id FROM checkpoints WHERE thread_id = ?)",
            (thread, thread),
        )
