"""Reading what forms and queries of the pages hold, by the rules of the API's input."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import request, url_for
from marshmallow import Schema, ValidationError, fields, validate

import profile_states
from auth import SAFE_METHODS
from errors import InvalidInput
from fields import ProfileName, Strict, described
from history import History
from profile_models import DEFAULT
from schemas import PackageInSchema

ETAG_LENGTH = 100


class SeenSchema(Strict):
    """The state of a profile for which a plan was shown; "" where there was no such profile."""

    seen = fields.String(load_default="", validate=validate.Length(max=ETAG_LENGTH))


class ChangeSchema(SeenSchema):
    """Which profile is to change, and in which state."""

    profile = ProfileName(load_default=DEFAULT, **described("The profile.", DEFAULT))


class InstallationSchema(ChangeSchema, PackageInSchema):
    """A package to install, and where."""


def read(schema: type[Schema]) -> dict[str, Any]:
    """Return what the request's query or form holds; a field that is empty counts as not given.

    Raises InvalidInput.
    """
    given = request.args if request.method in SAFE_METHODS else request.form
    filled = {name: value for name, value in given.items() if value.strip()}
    try:
        read: dict[str, Any] = schema().load(filled)
    except ValidationError as error:
        raise InvalidInput(errors=error.messages_dict) from None
    return read


def if_seen(name: str, seen: str) -> Callable[[History | None], bool]:
    """Return the check that a profile still is in the state for which a plan was shown."""
    return partial(profile_states.check_seen, name, seen)


def next_url(headers: Mapping[str, str], after: object) -> str | None:
    """Return the URL of the next page of a list, if its headers tell of one."""
    if "Link" not in headers:
        return None
    query = request.args.to_dict() | (request.view_args or {}) | {"after": after}
    return url_for(request.endpoint or "", **query)
