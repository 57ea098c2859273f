"""The kinds of fields that the schemas are made of, and how a field tells what it is.

What is told is for the API document: a field's meaning, and an example of it.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from marshmallow import Schema, fields


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

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = None) -> Any:
        """Hand the whole row to the nested schema."""
        there = self.key is None or getattr(obj, self.key) is not None
        return obj if there else None
