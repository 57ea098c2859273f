"""Lookups: what requests read again and again, by statements that are built once.

To build a statement takes SQLAlchemy several times as long as to execute it. They select columns
of the tables, not of the models: no session is needed.
"""

from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, Select, bindparam, func, select
from sqlalchemy.exc import DBAPIError

from models import Package, Task, Token, db, utcnow

PACKAGES = Package.__table__.c
TASKS = Task.__table__.c
TOKENS = Token.__table__.c

Convert = Callable[[Any], Any]


class Lookup:
    """A statement that finds one row, compiled once, and given to the database's driver itself.

    SQLAlchemy makes the SQL and knows the types. To execute it, too, would take four times as long
    as all the rest, for transactions and results of which there is no need here.
    """

    def __init__(self, statement: Select[Any]) -> None:
        """Prepare; the dialect is that of the application which looks up first."""
        self.statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def first(self, **values: Any) -> Any:
        """Return the row as a named tuple, None if there is none; raise what SQLAlchemy would."""
        engine = db.engine
        dialect = engine.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _compile(self.statement, dialect)
        try:
            with (
                closing(engine.raw_connection()) as connection,
                closing(connection.cursor()) as cursor,
            ):
                cursor.execute(compiled.sql, compiled.bind(values))
                found = cursor.fetchone()
        except dialect.loaded_dbapi.Error as error:
            base = dialect.loaded_dbapi.Error
            raise DBAPIError.instance(compiled.sql, None, error, base, dialect=dialect) from error
        return None if found is None else compiled.read(found)


@dataclass(frozen=True)
class _Compiled:
    """A statement as a driver takes it, and how its values go in and its row comes out."""

    sql: str
    parameters: dict[str, Convert]
    is_positional: bool
    columns: tuple[Convert, ...]
    row: Any

    def bind(self, values: dict[str, Any]) -> Any:
        bound = {name: convert(values[name]) for name, convert in self.parameters.items()}
        return tuple(bound.values()) if self.is_positional else bound

    def read(self, found: tuple[Any, ...]) -> Any:
        return self.row._make(
            [convert(one) for convert, one in zip(self.columns, found, strict=True)]
        )


def _compile(statement: Select[Any], dialect: Dialect) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    columns = list(statement.selected_columns)
    binds = [compiled.binds[name] for name in compiled.positiontup or compiled.binds]
    return _Compiled(
        sql=str(compiled),
        parameters={
            bind.key: bind.type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is
            for bind in binds
        },
        is_positional=compiled.positional,
        columns=tuple(
            column.type.dialect_impl(dialect).result_processor(dialect, None) or _as_it_is
            for column in columns
        ),
        row=namedtuple("Found", [column.name for column in columns]),
    )


def _as_it_is(value: Any) -> Any:
    return value


def _packages() -> Select[Any]:
    """Select packages as clients see them, each with its latest task."""
    latest = (
        select(func.max(TASKS.seq))
        .where(TASKS.package_id == PACKAGES.id)
        .correlate(Package.__table__)
        .scalar_subquery()
    )
    shown = [column for column in PACKAGES if column is not PACKAGES.store_paths]
    return select(
        *shown,
        TASKS.id.label("task_id"),
        TASKS.status.label("task_status"),
        TASKS.error_code,
        TASKS.error_message,
        TASKS.error_hint,
    ).outerjoin_from(Package.__table__, Task.__table__, TASKS.seq == latest)


ALL_PACKAGES = _packages()
ONE_PACKAGE = Lookup(ALL_PACKAGES.where(PACKAGES.id == bindparam("id")))
ALL_TASKS = select(Task.__table__)
ONE_TASK = Lookup(ALL_TASKS.where(TASKS.id == bindparam("id")))
LIVE_TOKEN = Lookup(
    select(TOKENS.id, TOKENS.name, TOKENS.scope, TOKENS.last_used_at).where(
        TOKENS.digest == bindparam("digest"),
        TOKENS.revoked_at.is_(None),
        TOKENS.expires_at > bindparam("now"),
    )
)


def package(package_id: int) -> Any:
    """Return a package's columns, with its latest task's; None if there is none."""
    return ONE_PACKAGE.first(id=package_id)


def task(task_id: UUID) -> Any:
    """Return a task's columns; None if there is none."""
    return ONE_TASK.first(id=task_id)


def live_token(digest: str) -> Any:
    """Return the token with this digest; None if it is revoked or has expired."""
    return LIVE_TOKEN.first(digest=digest, now=utcnow())
