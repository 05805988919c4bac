"""Run by alembic: migrates on the connection, and within the transaction, that `store.db.migrate` opened."""

from alembic import context

from store import dialect_tables as dialect_tables  # its tables are part of the metadata
from store import live_tables as live_tables
from store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
