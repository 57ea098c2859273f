"""Keyset paging: a page begins after the last row of the one before, however deep it is."""

from typing import Any
from urllib.parse import urlencode

from flask import request
from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.sql.elements import KeyedColumnElement

from models import db


def paginate(
    statement: Select[Any],
    *filters: ColumnElement[bool],
    key: KeyedColumnElement[int],
    after: int | None,
    limit: int,
    newest_first: bool = False,
) -> tuple[list[Row[Any]], dict[str, str]]:
    """Return a page of the rows that pass the filters, and its Link and X-Total-Count headers.

    `key` is the unique column that the list is ordered by, `after` its value in the last row of
    the page before; each row has an `id` for clients to continue from.
    """
    total = db.session.scalar(select(func.count()).select_from(key.table).where(*filters))
    wanted = statement.where(*filters).order_by(key.desc() if newest_first else key)
    if after is not None:
        wanted = wanted.where(key < after if newest_first else key > after)
    rows = list(db.session.execute(wanted.limit(limit + 1)).all())

    headers = {"X-Total-Count": str(total)}
    if len(rows) > limit:
        rows = rows[:limit]
        query = urlencode({**request.args.to_dict(), "after": rows[-1].id})
        headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return rows, headers
