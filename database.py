"""The database as a whole: its schema, how requests read, and whether SQLite's file is the same.

The tables are in models.py and catalogs/models.py.
"""

import importlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import current_app, g, has_app_context, has_request_context
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    MetaData,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import OperationalError

import services
from config import HERE, VERSION
from models import DATABASE_AWAY, cause, db

MIGRATIONS = HERE / "migrations"
# Read once: files that a later version puts in their place say nothing about this process.
KNOWN = sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
OTHER = "the schema is "
NEWER = ", of a newer version than this, "
VIRTUAL_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
)
BACKUP_NOTE = "last_backup"
RESTORE = "restore it from a backup, then restart the service (docs/operations.md, Restore)"


# --- The schema ---


def state() -> str:
    """Return `ok`, or why the service's database can't be used."""
    end_reading()
    return state_of(db.engine)


def state_of(engine: Engine) -> str:
    """Return `ok`, or why a database can't be used."""
    try:
        with engine.connect() as connection:
            current = revision(connection)
    except DATABASE_AWAY as error:
        return f"the database does not answer: {cause(error)}"
    if current is not None and current not in KNOWN:
        what_to_do = "start that version, or restore a backup from before the upgrade"
        return f"{OTHER}{current}{NEWER}{VERSION} ({KNOWN[-1]}): {what_to_do}"
    if current != KNOWN[-1]:
        return f"{OTHER}{current}, not {KNOWN[-1]}: run flask init-db"
    return "ok"


def is_usable() -> bool:
    """Tell whether the database can be asked, without making its file; `state` says why not."""
    file = sqlite_file(db.engine.url)  # which a connection would make
    return (file is None or file.exists()) and state() == "ok"


def revision(connection: Connection) -> str | None:
    """Return the revision that Alembic has noted; None for a database without a schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = connection.scalars(text("SELECT version_num FROM alembic_version"))
    found: str | None = revisions.first()
    return found


def upgrade(engine: Engine) -> None:
    """Create the schema, or bring it up to date."""
    # Imported here, since serving never needs it, and its import is a fifth of the start.
    flask_migrate = importlib.import_module("flask_migrate")
    migrate = flask_migrate.Migrate(
        current_app, db, directory=str(MIGRATIONS), render_as_batch=True
    )

    def with_engine(config: Any) -> Any:
        config.attributes["engine"] = engine
        return config

    migrate.configure(with_engine)
    flask_migrate.upgrade()


def drop_all(engine: Engine) -> None:
    """Drop all tables, also those that no model of this version describes."""
    found = MetaData()
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # A virtual table takes its shadow tables along, which can't be dropped one by one.
            for name in connection.scalars(text(VIRTUAL_TABLES)).all():
                connection.exec_driver_sql(f"DROP TABLE {name}")
        found.reflect(connection)
        found.drop_all(connection)


# --- Reads ---


class Reader:
    """The engine that requests read with, in autocommit mode: none of them needs a transaction.

    SQLite's connections are in that mode until they write. On PostgreSQL it saves two of the four
    round trips of a first select.
    """

    def __init__(self, engine: Engine) -> None:
        """Take the engine whose pool the connections are of."""
        is_sqlite = engine.dialect.name == "sqlite"
        options = {} if is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self.engine = engine.execution_options(**options)


@contextmanager
def reading() -> Iterator[Connection]:
    """Lend a connection to read with; the session may not begin a transaction meanwhile.

    A request keeps its first one for all its reads, until `end_reading`: to take one from the pool
    costs as much as a select. Within a transaction of the session it is the session's, since a
    thread that takes two connections could wait for one that another such thread holds.
    """
    if has_request_context():
        yield _kept()
    else:
        with services.get(Reader).engine.connect() as connection:
            yield connection


def _kept() -> Connection:
    kept: Connection | None = g.get("reading")
    if kept is None:
        if db.session().in_transaction():
            return db.session.connection()
        kept = g.reading = services.get(Reader).engine.connect()
    return kept


@event.listens_for(db.session, "after_transaction_create")
def end_reading(*_: object) -> None:
    """Give the request's connection back, as the session will take one, or the request waits."""
    kept: Connection | None = g.pop("reading", None) if has_app_context() else None
    if kept is not None:
        kept.close()


# --- The file of SQLite ---


def sqlite_file(url: URL) -> Path | None:
    """Return the file that a URL names; None for PostgreSQL."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path((url.database or "").removeprefix("file:"))


def backup_note() -> Path:
    """Return the file that names the last backup, and was written when that was made."""
    folder: Path = current_app.config["DATA_DIR"]
    return folder / BACKUP_NOTE


class DatabaseFault(sqlite3.OperationalError):
    """The file can't be used any more; the message says why, and what to do."""


class DatabaseFile:
    """The file that a database is in; there is none for PostgreSQL, and then nothing to notice.

    Whoever has a deleted file open can go on writing to it, and all of that is lost. So whenever a
    connection is taken, and before each commit, the file must be the one that this process began
    with. Once it was found damaged nothing more is read or written, since parts of it are still in
    memory.
    """

    def __init__(self, url: str) -> None:
        """Name the database by its URL."""
        self._path = str(sqlite_file(make_url(url)) or "")
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
