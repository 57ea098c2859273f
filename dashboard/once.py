"""Forms that add something, and whose answer shows a secret: each adds it once.

The secret is in the answer to the form alone. Whoever loads that answer anew sends the form again.
"""

from typing import Any

from flask import g, request
from sqlalchemy import func, select, update

from errors import HttpError
from models import Token, db

FIELD = "newest"  # of such a form: the newest id when it was shown


class SentAlready(HttpError):
    """Something was added after the form was shown, perhaps by that very form."""

    status = 409
    code = "sent-already"
    message = "nothing was added: something has been since this form was shown, perhaps by it"
    hint = "See the list; send the form again if what you want isn't there."


def newest(key: Any) -> int:
    """Return the newest id of a table, or 0."""
    return db.session.scalar(select(func.max(key))) or 0


def check(key: Any) -> None:
    """Let this transaction add a row if none was added since the form was shown.

    Raises SentAlready.
    """
    # Forms that the same token sends at the same time wait here for each other's end.
    mine = update(Token).where(Token.id == g.caller.id)
    db.session.execute(mine.values(name=Token.name))
    if str(newest(key)) != request.form.get(FIELD):
        db.session.rollback()
        raise SentAlready


def sent(*lists: str) -> dict[str, str | list[str]]:
    """Return the other fields of the form; all values of those that are lists."""
    form = {name: value for name, value in request.form.items() if name != FIELD}
    return form | {name: request.form.getlist(name) for name in lists}
