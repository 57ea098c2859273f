"""The kinds of fields that the schemas are made of, and how a field tells what it is.

What is told is for the API document: a field's meaning, and an example of it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import Row


def about(description: str, *examples: Any, **more: Any) -> dict[str, Any]:
    """Return a field's argument that tells the API document what the field is."""
    said = {"description": description, **more}
    return {"metadata": {**said, "examples": list(examples)} if examples else said}


def always(description: str, *examples: Any, **more: Any) -> dict[str, Any]:
    """Return the arguments of a field that is always there, and what it is."""
    return {"required": True, **about(description, *examples, **more)}


def nullable(description: str, *examples: Any) -> dict[str, Any]:
    """Return the arguments of a field that is always there but may be null, and what it is."""
    return {"allow_none": True, **always(description, *examples)}


class Document(Schema):
    """What goes out; a row by a plan that is made once, which is much quicker."""

    def _serialize(self, obj: Any, *, many: bool = False) -> Any:
        if many:
            return [self._serialize(one) for one in obj]
        if not isinstance(obj, (Row, tuple)):
            return super()._serialize(obj)
        return {key: write(obj) for key, write in self._plan}

    @cached_property
    def _plan(self) -> list[tuple[str, Callable[[Any], Any]]]:
        return [
            (field.data_key or name, _writer(name, field))
            for name, field in self.dump_fields.items()
        ]


def _writer(name: str, field: fields.Field[Any]) -> Callable[[Any], Any]:
    """Return the function that takes a field's value from a row, and has it as JSON has it."""
    read = attrgetter(field.attribute or name)
    if type(field) in (fields.String, fields.Integer, Choice):
        return read
    if isinstance(field, Columns):
        return field.take_from
    return lambda row: field._serialize(read(row), name, row)


class Timestamp(fields.AwareDateTime):
    """A time as RFC 3339 has it, in UTC, with milliseconds and Z."""

    def _serialize(
        self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Number(fields.Integer):
    """A whole number in a URL: plain decimal digits, nothing else that Python would read as one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Whole(fields.Integer):
    """A whole number in JSON, in which 3.0 is one too."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **kwargs)


class Seconds(fields.Float):
    """A time in seconds in a URL, as JSON has its numbers."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if not set(value) <= set("0123456789.eE+-"):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Choice(fields.Enum[StrEnum]):
    """One of the values of an enumeration."""

    def __init__(self, kind: type[StrEnum], **kwargs: Any) -> None:
        super().__init__(kind, by_value=fields.String, **kwargs)


class Columns(fields.Nested):
    """An object made of columns of the same row; null when the column `key` is."""

    def __init__(self, nested: type[Schema], *, key: str | None = None, **kwargs: Any) -> None:
        super().__init__(nested, **kwargs)
        self.key = key

    def take_from(self, row: Any) -> Any:
        """Return the object that the row's columns make."""
        there = self.key is None or getattr(row, self.key) is not None
        return self.schema.dump(row) if there else None
