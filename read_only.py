"""READ_ONLY: what there is can be read, and nothing is written to the database.

So a copy or a restore that the operator makes meanwhile loses nothing.
"""

import sqlite3
from typing import Any

from flask import Request, current_app
from sqlalchemy import Engine, event

from auth import SAFE_METHODS
from errors import ReadOnly

REASON = "READ_ONLY is set: no task is taken"


def is_set() -> bool:
    """Tell whether nothing may be written."""
    setting: bool = current_app.config["READ_ONLY"]
    return setting


def check_request(request: Request) -> None:
    """Refuse every request that may change something while READ_ONLY is set."""
    if request.method not in SAFE_METHODS and is_set() and request.routing_exception is None:
        raise ReadOnly


def guard(engine: Engine) -> None:
    """Have the database itself refuse whatever writes by the connections of an engine."""
    event.listen(engine, "connect", _forbid_writes)


def _forbid_writes(connection: Any, _record: object) -> None:
    is_sqlite = isinstance(connection, sqlite3.Connection)
    setting = "PRAGMA query_only = ON" if is_sqlite else "SET default_transaction_read_only = on"
    connection.execute(setting)
    connection.commit()
