"""What all routes have in common: how they read their input, which errors they tell, and paging."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import flask_smorest
from flask import Request, request
from marshmallow import RAISE, Schema
from sqlalchemy import ColumnElement, Select, func, select
from webargs.flaskparser import FlaskParser

from errors import ApiError, InvalidJson
from models import AnyRow, db

# The endpoints of the views that read a body.
BODY_VIEWS: set[str] = set()

View = TypeVar("View", bound=Callable[..., Any])


class Parser(FlaskParser):
    """Reads the input of a request; an unknown query parameter or field is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.DEFAULT_UNKNOWN_BY_LOCATION = {"json": RAISE, "query": RAISE}

    def load_json(self, req: Request, schema: Schema) -> Any:
        """Return the body; raise InvalidJson also for JSON that is nested or numbered too far."""
        try:
            return super().load_json(req, schema)
        except (RecursionError, ValueError):
            raise InvalidJson(errors={"body": ["Invalid JSON body."]}) from None


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # it ships no types
    """A group of routes that are in the API document."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: type[Schema], **options: Any) -> Callable[[View], View]:
        """Have a view called with what the schema makes of a part of the request."""
        # An instance: flask-smorest would make a new one of a class for each request.
        read_input: Callable[[View], View] = super().arguments(schema(), **options)

        def decorate(view: View) -> View:
            reading = read_input(view)
            if options.get("location", "json") == "json":
                BODY_VIEWS.add(f"{self.name}.{view.__name__}")
            return reading

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
    cursor: str = "id",
) -> tuple[list[AnyRow], dict[str, str]]:
    """Return one page of a list, and its headers Link and X-Total-Count.

    Paging is by keyset: `key` is the unique column that orders the list, `query["after"]` its value
    in the last row of the page before, so that a deep page costs what the first one costs. At most
    `query["limit"]` rows are returned. The next page is asked for with the column `cursor` of the
    last one. `filters` are the columns that query parameters of the same names restrict.
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
        next_query = urlencode({**request.args.to_dict(), "after": getattr(rows[-1], cursor)})
        headers["Link"] = f'<{request.path}?{next_query}>; rel="next"'
    return rows, headers
