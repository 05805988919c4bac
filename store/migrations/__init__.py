"""Migrations of the store, one file a step, applied in order by `store.db.migrate`."""
