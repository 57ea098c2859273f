"""How pages read what a form sends, by the same schemas as the API."""

from collections.abc import Mapping
from typing import Any

from flask import request, url_for
from marshmallow import Schema, ValidationError

from api import sentences
from errors import InvalidInput


def read(schema: Schema, sent: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Return what a query or a form holds; a field that was left empty counts as not sent.

    Raises InvalidInput, as the API does.
    """
    filled = {
        name: value for name, value in sent.items() if isinstance(value, list) or value.strip()
    }
    try:
        found: dict[str, Any] = schema.load(filled)
    except ValidationError as error:
        errors = {field: sentences(said) for field, said in error.messages_dict.items()}
        raise InvalidInput(errors=errors) from None
    return found


def next_url(headers: Mapping[str, str], after: object) -> str | None:
    """Return the URL of the next page of a list, if the headers that the API sends tell of one."""
    if "Link" not in headers:
        return None
    query = request.args.to_dict() | (request.view_args or {}) | {"after": after}
    return url_for(request.endpoint or "", **query)
