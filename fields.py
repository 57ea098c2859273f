"""What the schemas are made of: the rules of names and versions, and the kinds of fields."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any
from uuid import UUID

import semver
from flask import current_app
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from sqlalchemy import Row

import nix

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_+.-]*\Z"
NAME_LENGTH = 50  # unless the setting of this name says more
MIN_NAME_LENGTH, MAX_NAME_LENGTH = 2, 128
NUMBER_IN_LINK = re.compile("[0-9]{1,10}")
# Those of ASCII and of Latin-1, line separators, and what turns the direction of writing.
CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
PLAIN_TEXT = validate.Regexp(
    rf"[^{CONTROLS}\ud800-\udfff]*\Z", error="Must hold no control characters."
)
PROFILE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
PROFILE_NAME_ERROR = "Must begin with a small letter, and hold 32 of a-z, 0-9 and - at most."
MACHINE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}\Z")
MACHINE_NAME_ERROR = (
    "Must begin with a letter or digit, and hold 64 of a-z, A-Z, 0-9, . and - at most."
)
MAX_ID = 2**31 - 1
MAX_IDS = 1000
MAX_OFFSET = 2**53 - 1
MAX_RANGE_LENGTH = 200
MAX_LIFE_SECONDS = 10 * 365 * 86_400
MAX_WAIT_SECONDS = 30

# The same rules as regular expressions of JSON Schema, for the API document.
NAME_RULE = "^[A-Za-z_][A-Za-z0-9_+.-]*$"
PLAIN_TEXT_RULE = f"^[^{CONTROLS}]*$"
# The store's folder, and in it a digest in Nix's base 32 and a name (Nix manual, Store path).
STORE_PATH_RULE = r"^/[!-~]+/[0-9a-df-np-sv-z]{32}-[0-9A-Za-z+._?=-]{1,211}$"
PROFILE_NAME_RULE = "^[a-z][a-z0-9-]{0,31}$"
MACHINE_NAME_RULE = "^[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}$"
NUMERAL = "(0|[1-9][0-9]*)"
PART = f"({NUMERAL}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
VERSION_RULE = (
    rf"^{NUMERAL}\.{NUMERAL}\.{NUMERAL}"
    rf"(-{PART}(\.{PART})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)


def semantic_version(value: str) -> None:
    """Raise ValidationError unless the value is a Semantic Version 2.0.0 (semver.org)."""
    if not semver.Version.is_valid(value):
        meant = nix.semantic(value)
        raise ValidationError(f"Not a semantic version (see semver.org): did you mean {meant}?")


def name_length(value: str) -> None:
    """Raise ValidationError unless a name is as long as this server allows."""
    limit = current_app.config["NAME_LENGTH"]
    if not MIN_NAME_LENGTH <= len(value) <= limit:
        raise ValidationError(
            f"A name has {MIN_NAME_LENGTH} to {limit} characters (NAME_LENGTH of the server);"
            f" this one has {len(value)}."
        )


def unique(values: list[Any]) -> None:
    """Raise ValidationError if a value is there twice."""
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValidationError(f"More than once: {', '.join(map(str, twice))}.")


def described(description: str, *examples: Any, **more: Any) -> dict[str, Any]:
    """Return the argument of a field that gives the API document its meaning and examples."""
    metadata = {"description": description, **more}
    return {"metadata": {**metadata, "examples": list(examples)} if examples else metadata}


def always(description: str, *examples: Any, **more: Any) -> dict[str, Any]:
    """Return the arguments of a field that is always there."""
    return {"required": True, **described(description, *examples, **more)}


def nullable(description: str, *examples: Any) -> dict[str, Any]:
    """Return the arguments of a field that is always there but may be null."""
    return {"allow_none": True, **always(description, *examples)}


class OutputSchema(Schema):
    """The base of all output.

    Rows of a query are written by getters that are prepared once: a page of 50 packages takes
    0.6 ms, where marshmallow, which looks up each field of each row, takes 3.5 ms.
    """

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Return what `obj`, a row or anything that marshmallow takes, is in JSON."""
        if self.many if many is None else many:
            return [self.dump(one, many=False) for one in obj]
        if not isinstance(obj, (Row, tuple)):
            return super().dump(obj, many=False)
        return {key: get(obj) for key, get in self._getters}

    @cached_property
    def _getters(self) -> list[tuple[str, Callable[[Any], Any]]]:
        return [
            (field.data_key or name, _getter(name, field))
            for name, field in self.dump_fields.items()
        ]


def _getter(name: str, field: fields.Field[Any]) -> Callable[[Any], Any]:
    """Return the function that gets a field's value from a row, ready for JSON."""
    if type(field) in (fields.String, fields.Integer, Choice):
        return attrgetter(field.attribute or name)
    if isinstance(field, Timestamp):
        return field.getter(name)
    if isinstance(field, NestedColumns):
        return field.get_from
    if isinstance(field, JoinedNames):
        return field.getter(name)
    return lambda row: field.serialize(name, row, accessor=getattr)


def rfc3339(time: datetime) -> str:
    """Return a time as in RFC 3339, in UTC, with milliseconds and Z."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Timestamp(fields.AwareDateTime):
    """A time as in RFC 3339, in UTC, with milliseconds and Z."""

    def _serialize(
        self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> str | None:
        return None if value is None else rfc3339(value)

    def getter(self, name: str) -> Callable[[Any], str | None]:
        """Return the function that gets the time from a row."""
        get = attrgetter(self.attribute or name)
        return lambda row: None if (time := get(row)) is None else rfc3339(time)


class QueryInteger(fields.Integer):
    """A whole number in a URL: decimal digits, and nothing else that Python reads as a number."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class TaskCursor(fields.Field[Any]):
    """Where a list of tasks goes on: the place of a task in it, or the id of a task."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int | UUID:
        if NUMBER_IN_LINK.fullmatch(value):
            return int(value)
        try:
            return UUID(value)
        except ValueError:
            raise ValidationError("Not the id of a task, or the number in a Link.") from None


class JsonInteger(fields.Integer):
    """A whole number in JSON, where 3.0 is one, too."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return super()._deserialize(whole, attr, data, **kwargs)


class Seconds(fields.Float):
    """A time in seconds in a URL, written as a number in JSON."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if not set(value) <= set("0123456789.eE+-"):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class TrueOrFalse(fields.Boolean):
    """`true` or `false` in a URL, false by default; nothing else that stands for a truth value."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(truthy={"true"}, falsy={"false"}, load_default=False, **kwargs)


class ProfileName(fields.String):
    """The name of a profile."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"]["pattern"] = PROFILE_NAME_RULE
        super().__init__(validate=validate.Regexp(PROFILE_NAME, error=PROFILE_NAME_ERROR), **kwargs)


class MachineName(fields.String):
    """The name of a machine."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"]["pattern"] = MACHINE_NAME_RULE
        super().__init__(validate=validate.Regexp(MACHINE_NAME, error=MACHINE_NAME_ERROR), **kwargs)


class JoinedNames(fields.List[Any]):
    """A list of names, which a query joins by commas."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(fields.String(), **kwargs)

    def getter(self, name: str) -> Callable[[Any], list[str]]:
        """Return the function that gets the names from a row."""
        get = attrgetter(name)
        return lambda row: sorted(joined.split(",")) if (joined := get(row)) else []


class Choice(fields.Enum[StrEnum]):
    """One of the values of an enumeration."""

    def __init__(self, kind: type[StrEnum], **kwargs: Any) -> None:
        super().__init__(kind, by_value=fields.String, **kwargs)


class NestedColumns(fields.Nested):
    """An object made of columns of the same row; null where the column `key` is null."""

    def __init__(self, nested: type[Schema], *, key: str | None = None, **kwargs: Any) -> None:
        super().__init__(nested, **kwargs)
        self.key = key

    def get_from(self, row: Any) -> Any:
        """Return the object, ready for JSON."""
        if self.key is not None and getattr(row, self.key) is None:
            return None
        return self.schema.dump(row)


class Strict(Schema):
    """Input in which an unknown field is an error."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE


class Page(Strict):
    """Which page of a list is asked for."""

    limit = QueryInteger(
        load_default=100, validate=validate.Range(1, 1000), **described("At most this many.", 100)
    )
