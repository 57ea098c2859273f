"""What requests have read, kept in memory for as long as nobody has written to the database.

So a token that comes again and again (auth.py), or a package or task that is polled (api.cached),
is read from SQLite once. Before each use SQLite tells whether any process has written to its file,
in 4 µs (`PRAGMA data_version`): no answer is older than its request. With PostgreSQL nothing is
kept, since to ask it would take as long as to read.
"""

import sqlite3
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from sqlalchemy import Engine, PoolProxiedConnection

import services
from database import DatabaseFile
from models import DATABASE_AWAY, db

VALUES = 500

T = TypeVar("T")


class ReadCache:
    """What one process has read since the last write, by its keys."""

    def __init__(self, engine: Engine, file: DatabaseFile) -> None:
        """Prepare for the database of this engine, in this file."""
        self._engine = engine
        self._file = file
        self._lock = threading.Lock()
        self._values: dict[Hashable, Any] = {}
        self._version: tuple[int] | None = None
        # A connection of its own: SQLite tells it of writes by others alone.
        self._connection: PoolProxiedConnection | None = None
        self._is_sqlite = engine.dialect.name == "sqlite"

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return what `read` returns, or has returned for this key since the last write.

        None is never kept: it would be for each of all the keys that a client can invent.
        """
        values = self._current()
        known: T | None = values.get(key) if values else None
        if known is not None:
            return known
        found = read()
        if values is not None and found is not None:
            if len(values) >= VALUES:
                values.clear()
            values[key] = found
        return found

    def _current(self) -> dict[Hashable, Any] | None:
        """Return what was read since the last write; None where that can't be told.

        What is read from now on may go there: it is at least as new.
        """
        if not self._is_sqlite:
            return None
        try:
            with self._lock:
                self._file.check()
                if self._connection is None:
                    self._connection = self._engine.raw_connection()
                    self._connection.detach()
                    self._version = None
                version = self._connection.cursor().execute("PRAGMA data_version").fetchone()
                if version != self._version:
                    self._version, self._values = version, {}
                return self._values
        except (*DATABASE_AWAY, sqlite3.Error):
            return None

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def close_connections() -> None:
    """Close all connections of the application's database, that of its ReadCache too."""
    services.get(ReadCache).close()
    db.engine.dispose()
