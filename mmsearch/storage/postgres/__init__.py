"""The store in a PostgreSQL database, a schema an index."""

from mmsearch.storage.postgres.store import PostgresStore, open_store

__all__ = ["PostgresStore", "open_store"]
