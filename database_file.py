"""The file of a SQLite database: noticing that it is gone, another one, or damaged.

Whoever has a deleted file open can go on writing to it, and all of that is lost. So whenever a
connection is taken, and before each commit, the file must be the one that this process began with.
Once it was found damaged nothing more is read or written, since parts of it are still in memory.
"""

import os
import sqlite3
from typing import Any

from sqlalchemy import Engine, ExceptionContext, event, make_url
from sqlalchemy.exc import OperationalError

import services
from models import db

RESTORE = "restore it from a backup, then restart the service (docs/operations.md, Restore)"


class DatabaseFault(sqlite3.OperationalError):
    """The file can't be used any more; the message says why, and what to do."""


class DatabaseFile:
    """The file that a database is in; there is none for PostgreSQL, and then nothing to notice."""

    def __init__(self, url: str) -> None:
        """Name the database by its URL."""
        is_sqlite = url.startswith("sqlite")
        self._path = (make_url(url).database or "").removeprefix("file:") if is_sqlite else ""
        self._known: tuple[int, int] | None = None
        self._damage = ""

    def watch(self, engine: Engine) -> None:
        """Check the file whenever the engine makes or hands out a connection."""
        if self._path:
            # Before: SQLite would make a file that is gone anew, and empty.
            event.listen(engine, "do_connect", self.check)
            event.listen(engine, "connect", self._remember)
            event.listen(engine, "checkout", self.check)
            event.listen(engine, "handle_error", self._tell_damage)

    def check(self, *_: object) -> None:
        """Raise DatabaseFault if the file is damaged, or not what the first connection opened."""
        if self._damage:
            raise DatabaseFault(self._damage)
        if self._known is not None and self._known != self._identity():
            raise DatabaseFault(f"the file of the database is gone, or another one: {RESTORE}")

    def _remember(self, *_: object) -> None:
        if self._known is None:
            self._known = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        # By its name: to open and close the file would take SQLite's locks on it away.
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _tell_damage(self, context: ExceptionContext) -> OperationalError | None:
        """Have SQLAlchemy raise what all code takes for a database that is away.

        Python's sqlite3 gives a damaged file no class of its own.
        """
        original: Any = context.original_exception
        if type(original) is not sqlite3.DatabaseError:
            return None
        self._damage = f"the file of the database is damaged ({original}): {RESTORE}"
        return OperationalError(context.statement, None, DatabaseFault(self._damage))


@event.listens_for(db.session, "before_commit")
def check_before_commit(_session: object) -> None:
    """Refuse to commit to a file that is gone."""
    try:
        services.get(DatabaseFile).check()
    except DatabaseFault as fault:
        raise OperationalError(None, None, fault) from None
