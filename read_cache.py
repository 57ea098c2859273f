"""What requests have read, kept in memory for as long as nobody has written to the database.

So a token that comes again and again, or a package or task that is polled, is read from SQLite
once. Each request has SQLite tell once whether any process has written to its file (`PRAGMA
data_version`): no answer is older than its request. With PostgreSQL nothing is kept, since to ask
it would take as long as to read.
"""

import sqlite3
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from flask import g
from sqlalchemy import Engine, PoolProxiedConnection

import services
from database import DatabaseFile
from models import DATABASE_AWAY, db

VALUES = 500

T = TypeVar("T")


class Reads:
    """What was read after one write and before the next, by its keys."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return what `read` returns, or has returned for this key.

        None is never kept: it would be for each of all the keys that a client can invent.
        """
        known: T | None = self._values.get(key)
        if known is not None:
            return known
        found = read()
        if found is not None:
            if len(self._values) >= VALUES:
                self._values.clear()
            self._values[key] = found
        return found


class ReadCache:
    """What one process has read since the last write."""

    def __init__(self, engine: Engine, file: DatabaseFile) -> None:
        """Prepare for the database of this engine, in this file."""
        self._engine = engine
        self._file = file
        self._lock = threading.Lock()
        self._reads = Reads()
        self._version: tuple[int] | None = None
        # A connection of its own: SQLite tells it of writes by others alone.
        self._connection: PoolProxiedConnection | None = None
        self._is_sqlite = engine.dialect.name == "sqlite"

    def current(self) -> Reads:
        """Return what was read since the last write; nothing where that can't be told.

        What is read from now on may go there: it is at least as new.
        """
        if not self._is_sqlite:
            return Reads()
        try:
            with self._lock:
                self._file.check()
                if self._connection is None:
                    self._connection = self._engine.raw_connection()
                    self._connection.detach()
                    self._version = None
                version = self._connection.cursor().execute("PRAGMA data_version").fetchone()
                if version != self._version:
                    self._version, self._reads = version, Reads()
                return self._reads
        except (*DATABASE_AWAY, sqlite3.Error):
            return Reads()

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def of_request() -> Reads:
    """Return what may be given to the current request, found out when it first asks.

    What it writes itself isn't noticed: so ask before that, or ask the ReadCache.
    """
    reads: Reads | None = g.get("reads")
    if reads is None:
        reads = g.reads = services.get(ReadCache).current()
    return reads


def since_last_write(read: Callable[[], T]) -> T:
    """Return what `read` returns, or has returned since the last write."""
    return services.get(ReadCache).current().get(read, read)


def close_connections() -> None:
    """Close all connections of the application's database, that of its ReadCache too."""
    services.get(ReadCache).close()
    db.engine.dispose()
