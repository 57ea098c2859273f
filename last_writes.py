"""What a transaction writes last, right before its commit: counts, then events.

All transactions write these rows in one order, and lock nothing after them. So a transaction that
waits for another one's counts or events holds all other rows that it needs, and no two wait for
each other.
"""

from enum import IntEnum
from typing import Any

from sqlalchemy import Executable, event

from models import db

PENDING = "pkgd.last_writes"  # in the session's info


class Place(IntEnum):
    """Where in the order a statement comes."""

    COUNT = 1
    EVENT = 2


def add(place: Place, key: tuple[Any, ...], statement: Executable) -> None:
    """Have a statement executed before the commit; those of one place in the order of their keys.

    It is forgotten if the transaction is rolled back.
    """
    pending = db.session.info.setdefault(PENDING, [])
    pending.append((place, key, len(pending), statement))


@event.listens_for(db.session, "before_commit")
def _write(session: Any) -> None:
    for *_, statement in sorted(session.info.pop(PENDING, ()), key=lambda one: one[:3]):
        session.execute(statement)


@event.listens_for(db.session, "after_soft_rollback")
def _forget(session: Any, _transaction: object) -> None:
    """Write nothing of a transaction that was rolled back."""
    session.info.pop(PENDING, None)
