"""What a transaction writes last, right before its commit: counts, then events.

All transactions write these rows in one order, and lock nothing after them. So a transaction that
waits for another one's counts or events holds all other rows that it needs, and no two wait for
each other.

Once they are committed, `committed` wakes those threads of this process that wait for a change.
"""

import threading
from enum import IntEnum
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Executable, event

from models import db

# In the session's info.
PENDING = "pkgd.last_writes"
WRITTEN = "pkgd.last_writes.written"


class Place(IntEnum):
    """Where in the order a statement comes."""

    COUNT = 1
    EVENT = 2


class _Write(NamedTuple):
    place: Place
    key: tuple[Any, ...]
    number: int  # of the write in its transaction
    statement: Executable
    row: dict[str, Any] | None


class Commits:
    """How many transactions with last writes this process has committed: each has an event."""

    def __init__(self) -> None:
        self.number = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        """Count one, and wake all who wait."""
        with self._changed:
            self.number += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until the number is not `seen` any more, `seconds` at most."""
        with self._changed:
            self._changed.wait_for(lambda: self.number != seen, seconds)


committed = Commits()


def add(
    place: Place, key: tuple[Any, ...], statement: Executable, row: dict[str, Any] | None = None
) -> None:
    """Have a statement executed before the commit; those of one place in the order of their keys.

    One that is added again is executed once, with all the rows that it was added with. All are
    forgotten if the transaction is rolled back.
    """
    pending = db.session.info.setdefault(PENDING, [])
    pending.append(_Write(place, key, len(pending), statement, row))


@event.listens_for(db.session, "before_commit")
def _write(session: Any) -> None:
    pending = sorted(session.info.pop(PENDING, ()), key=lambda write: write[:3])
    if not pending:
        return
    session.info[WRITTEN] = True
    session.flush()  # what it writes comes first
    connection = session.connection()
    for _, together in groupby(pending, key=lambda write: id(write.statement)):
        writes = list(together)
        rows = [write.row for write in writes if write.row is not None]
        connection.execute(writes[0].statement, rows or None)


@event.listens_for(db.session, "after_commit")
def _wake(session: Any) -> None:
    if session.info.pop(WRITTEN, False):
        committed.add()


@event.listens_for(db.session, "after_soft_rollback")
def _forget(session: Any, _transaction: object) -> None:
    """Write nothing of a transaction that was rolled back."""
    session.info.pop(PENDING, None)
    session.info.pop(WRITTEN, None)
