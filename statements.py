"""Statements: made by SQLAlchemy, compiled once, executed by the database's driver itself.

For SQLAlchemy to execute one takes more than twice as long, with transactions and results that the
few statements which every request needs have no use for.
"""

from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Dialect, Engine, Insert, Select
from sqlalchemy.exc import DBAPIError

Convert = Callable[[Any], Any]


class Statement:
    """A statement that comes to one row at most; values go in by the names of its parameters.

    It may hold values of its own, but no list of them (`in_`), which is made out at each execution.
    """

    def __init__(self, source: Select[Any] | Insert) -> None:
        """Prepare; it is compiled when it is first executed, for that database."""
        self._source = source
        self._compiled: dict[str, _Compiled] = {}

    def first(self, engine: Engine, **values: Any) -> Any:
        """Return the row as a named tuple, None if there is none; raise what SQLAlchemy would."""
        return self._execute(engine, values, is_change=False)

    def write(self, engine: Engine, **values: Any) -> Any:
        """Do as `first`, and commit."""
        return self._execute(engine, values, is_change=True)

    def _execute(self, engine: Engine, values: dict[str, Any], *, is_change: bool) -> Any:
        dialect = engine.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _compile(self._source, dialect)
        try:
            with (
                closing(engine.raw_connection()) as connection,
                closing(connection.cursor()) as cursor,
            ):
                cursor.execute(compiled.sql, compiled.bind(values))
                found = cursor.fetchone()
                if is_change:
                    connection.commit()
        except dialect.loaded_dbapi.Error as error:
            base = dialect.loaded_dbapi.Error
            raise DBAPIError.instance(compiled.sql, None, error, base, dialect=dialect) from error
        return None if found is None else compiled.read(found)


@dataclass(frozen=True)
class _Compiled:
    """A statement as a driver takes it, and how its values go in and its row comes out."""

    sql: str
    constants: dict[str, Any]
    parameters: tuple[tuple[str, Convert], ...]
    is_positional: bool
    conversions: tuple[tuple[int, Convert], ...]
    row: Any

    def bind(self, values: dict[str, Any]) -> Any:
        given = self.constants | values
        if self.is_positional:
            return [convert(given[name]) for name, convert in self.parameters]
        return {name: convert(given[name]) for name, convert in self.parameters}

    def read(self, found: tuple[Any, ...]) -> Any:
        values = list(found)
        for number, convert in self.conversions:
            values[number] = convert(values[number])
        return self.row._make(values)


def _compile(source: Select[Any] | Insert, dialect: Dialect) -> _Compiled:
    compiled = source.compile(dialect=dialect)
    columns = list(source.exported_columns)
    binds = compiled.binds
    return _Compiled(
        sql=str(compiled),
        constants={name: bind.value for name, bind in binds.items() if not bind.required},
        parameters=tuple(
            (name, binds[name].type.dialect_impl(dialect).bind_processor(dialect) or _as_it_is)
            for name in compiled.positiontup or binds
        ),
        is_positional=compiled.positional,
        conversions=tuple(
            (number, convert)
            for number, column in enumerate(columns)
            if (convert := column.type.dialect_impl(dialect).result_processor(dialect, None))
        ),
        row=namedtuple("Row", [column.name for column in columns]),
    )


def _as_it_is(value: Any) -> Any:
    return value
