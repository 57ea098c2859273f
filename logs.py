"""Build logs: kept in the database in pieces, so that any process can serve any task's.

An attempt's log is a run of bytes; a piece holds those from its `start` on. Offsets are in bytes.
"""

from collections.abc import Callable, Iterator

from sqlalchemy import bindparam, func, select

from models import LIVE, Task, TaskLog, db
from statements import Statement

PIECES = 32

LOGS = TaskLog.__table__.c
END = Statement(
    select((LOGS.start + func.length(LOGS.data)).label("byte"))
    .where(LOGS.task_seq == bindparam("task_seq"), LOGS.attempt == bindparam("attempt"))
    .order_by(LOGS.start.desc())
    .limit(1)
)


def end(task_seq: int, attempt: int) -> int:
    """Return how many bytes an attempt's log has by now."""
    last = END.first(db.engine, task_seq=task_seq, attempt=attempt)
    return 0 if last is None else int(last.byte)


def read(task_seq: int, attempt: int, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `stop`, a few pieces in memory at a time."""
    while start < stop and (pieces := _pieces(task_seq, attempt, start)):
        for piece in pieces:
            yield piece[: max(0, stop - start)]
            start += len(piece)


def follow(
    task_seq: int, attempt: int, start: int, *, pause: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield the bytes from `start` on as they are written, until the attempt has ended.

    `pause` waits a moment, and returns True when the service stops and the stream has to end.
    """
    while True:
        over = not _goes_on(task_seq, attempt)  # asked first: what is written until then is read
        stop = end(task_seq, attempt)
        yield from read(task_seq, attempt, start, stop)
        start = max(start, stop)
        if over or pause():
            return


def _goes_on(task_seq: int, attempt: int) -> bool:
    """Tell whether an attempt is still to come or running."""
    goes_on = Task.seq == task_seq, Task.status.in_(LIVE), Task.attempt <= attempt
    there = db.session.scalar(select(Task.seq).where(*goes_on))
    db.session.rollback()
    return there is not None


def _pieces(task_seq: int, attempt: int, start: int) -> list[bytes]:
    """Return the next few pieces from byte `start` on, the first cut to begin there."""
    mine = TaskLog.task_seq == task_seq, TaskLog.attempt == attempt
    first = select(func.max(TaskLog.start)).where(*mine, TaskLog.start <= start).scalar_subquery()
    rows = db.session.execute(
        select(TaskLog.start, TaskLog.data)
        .where(*mine, TaskLog.start >= first)
        .order_by(TaskLog.start)
        .limit(PIECES)
    ).all()
    db.session.rollback()
    return [row.data[max(0, start - row.start) :] for row in rows]
