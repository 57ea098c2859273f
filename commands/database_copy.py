"""Copying all that a database holds to another one, of either kind: SQLite and PostgreSQL.

The source is read in one snapshot, and the destination written in one transaction, so that it has
all rows or none. Rows keep their ids, and no id that the source has given out is given out again.
The application's session knows nothing of the destination, so all statements are executed on its
connection.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    Table,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

import database
from models import cause, db

FIRST = {"profiles": 1}  # how many rows a new schema has
# How many rows are in memory at a time.
ROWS = 500
LARGE_ROWS = 16  # of pieces of logs

Report = Callable[[str, int, int], None]


class CopyError(Exception):
    """The copy can't be made, and nothing was copied; the message is one line."""


@dataclass(frozen=True)
class Copied:
    """How many tables and rows were copied."""

    tables: int
    rows: int


def copy(source: Engine, url: str, report: Report) -> Copied:
    """Copy all rows to the database at `url`, which gets its schema if it has none.

    `report` is called with a table, how many of its rows are copied, and how many it has. Raises
    CopyError, where the destination holds any row, too.
    """
    destination = create_engine(url)
    try:
        _prepare(destination)
        with source.connect() as rows, destination.begin() as connection:
            _take_snapshot(rows)
            _check_empty(connection)
            counts = [_copy_table(table, rows, connection, report) for table in _tables()]
    except DBAPIError as error:
        raise CopyError(f"nothing was copied: {cause(error)}") from None
    finally:
        destination.dispose()
    return Copied(len(counts), sum(counts))


def _tables() -> list[Table]:
    """Return all tables, each after those that it refers to."""
    return db.metadata.sorted_tables


def _prepare(destination: Engine) -> None:
    """Create the schema in a database that has no table. Raises CopyError for an older schema."""
    with destination.connect() as connection:
        is_new = not inspect(connection).get_table_names()
    if is_new:
        database.upgrade(destination)
    state = database.state_of(destination)
    if state != "ok":
        raise CopyError(f"the destination can't be used: {state}")


def _take_snapshot(connection: Connection) -> None:
    """Begin a transaction in which the connection reads one snapshot."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _check_empty(destination: Connection) -> None:
    """Begin to write, and delete the rows of a new schema. Raises CopyError if there are others."""
    if destination.dialect.name == "sqlite":
        destination.exec_driver_sql("BEGIN IMMEDIATE")
    filled = [
        table.name for table in _tables() if _count(destination, table) > FIRST.get(table.name, 0)
    ]
    if filled:
        raise CopyError(f"the destination is not empty: it has {', '.join(filled)}")
    for table in _tables():
        if table.name in FIRST:
            destination.execute(delete(table))


def _copy_table(table: Table, source: Connection, destination: Connection, report: Report) -> int:
    """Copy the rows of a table; return how many there were."""
    total, copied = _count(source, table), 0
    has_pieces = any(isinstance(column.type, LargeBinary) for column in table.columns)
    size = LARGE_ROWS if has_pieces else ROWS
    report(table.name, 0, total)
    wanted = select(table).order_by(*table.primary_key)
    with source.execute(wanted, execution_options={"yield_per": size}) as found:
        for rows in found.partitions():
            destination.execute(insert(table), [row._asdict() for row in rows])
            copied += len(rows)
            report(table.name, copied, total)

    _set_last_id(table, source, destination)
    arrived = _count(destination, table)
    if arrived != total:
        raise CopyError(f"{table.name} has {total} rows, but {arrived} arrived")
    return total


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


# --- Ids ---


def _set_last_id(table: Table, source: Connection, destination: Connection) -> None:
    """Have the destination give out ids after the last one that the source has given out."""
    column = table.autoincrement_column
    if column is None:
        return
    last = _last_id(table, column.name, source)
    if destination.dialect.name == "postgresql":
        sequence = func.setval(_sequence(table, column.name), max(last, 1), last > 0)
        destination.execute(select(sequence))
    elif table.dialect_options["sqlite"]["autoincrement"]:
        row = {"name": table.name, "last": last}
        destination.execute(_FORGET_LAST, row)
        destination.execute(_NOTE_LAST, row)


def _last_id(table: Table, column: str, source: Connection) -> int:
    """Return the last id that a table has given out; 0 if it has given out none."""
    last = source.scalar(select(func.max(table.columns[column]))) or 0
    if source.dialect.name == "postgresql":
        sequence = source.scalar(select(_sequence(table, column)))
        noted = source.scalar(text(f"SELECT last_value FROM {sequence} WHERE is_called"))  # noqa: S608
    else:
        noted = source.scalar(_LAST, {"name": table.name})
    return max(last, noted or 0)


def _sequence(table: Table, column: str) -> ColumnElement[str]:
    return func.pg_get_serial_sequence(table.name, column)


# SQLite's table of the last ids has no model: it is SQLite's own.
_LAST = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
_FORGET_LAST = text("DELETE FROM sqlite_sequence WHERE name = :name")
_NOTE_LAST = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)")
