"""What all routes have in common: how they read their input, which errors they tell, and paging."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import flask_smorest
from flask import request
from marshmallow import RAISE, Schema
from sqlalchemy import ColumnElement, Select, func, select
from webargs.flaskparser import FlaskParser

from errors import ApiError
from models import AnyRow, db

View = TypeVar("View", bound=Callable[..., Any])


class Parser(FlaskParser):
    """Reads the input of a request; an unknown query parameter or field is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.DEFAULT_UNKNOWN_BY_LOCATION = {"json": RAISE, "query": RAISE}


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # it ships no types
    """A group of routes that are in the API document."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """Have a view called with what the schema makes of a part of the request."""
        # An instance: flask-smorest would make a new one of a class for each request.
        decorate: Callable[[View], View] = super().arguments(schema(), **options)
        return decorate

    def refuses(self, *errors: type[ApiError]) -> Callable[[View], View]:
        """Name the errors of its own that a route may answer with, for the API document."""
        decorate: Callable[[View], View] = self.doc(errors=list(errors))
        return decorate


def headers(*names: str) -> dict[str, Any]:
    """Return references to the headers of an answer, for the API document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def page(
    statement: Select[Any],
    query: dict[str, Any],
    *where: ColumnElement[bool],
    key: Any,
    filters: dict[str, Any] | None = None,
    newest_first: bool = False,
) -> tuple[list[AnyRow], dict[str, str]]:
    """Return one page of a list, and its headers Link and X-Total-Count.

    Paging is by keyset: `key` is the unique column that orders the list, `query["after"]` its value
    in the last row of the page before, so that a deep page costs what the first one costs. At most
    `query["limit"]` rows are returned, each with the `id` that clients continue from. `filters` are
    the columns that query parameters of the same names restrict.
    """
    given = (column == query[name] for name, column in (filters or {}).items() if name in query)
    where = (*where, *given)
    total = db.session.scalar(select(func.count(key)).where(*where))

    rows_wanted = statement.where(*where).order_by(key.desc() if newest_first else key)
    after = query.get("after")
    if after is not None:
        rows_wanted = rows_wanted.where(key < after if newest_first else key > after)
    limit = query["limit"]
    rows = list(db.session.execute(rows_wanted.limit(limit + 1)).all())

    headers = {"X-Total-Count": str(total)}
    if len(rows) > limit:
        rows = rows[:limit]
        next_query = urlencode({**request.args.to_dict(), "after": rows[-1].id})
        headers["Link"] = f'<{request.path}?{next_query}>; rel="next"'
    return rows, headers
