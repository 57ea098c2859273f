"""Build logs in the database, where every process can read the log of every task.

An attempt's log is a sequence of bytes, stored in pieces; a piece holds the bytes from its `start`
on. Offsets are in bytes.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select

from models import LIVE, NO_SYNC, Task, TaskLog, db, upsert

PIECES = 8

# Built at import, since building takes longer than executing.
_MINE = TaskLog.task_seq == bindparam("task"), TaskLog.attempt == bindparam("number")
_LAST = (
    select(TaskLog.start + func.length(TaskLog.data))
    .where(*_MINE)
    .order_by(TaskLog.start.desc())
    .limit(1)
)


def end(task_seq: int, attempt: int) -> int:
    """Return how many bytes an attempt's log has by now."""
    return db.session.scalar(_LAST, {"task": task_seq, "number": attempt}) or 0


def tail(task_seq: int, attempt: int, size: int) -> bytes:
    """Return the last bytes of an attempt's log, `size` at most."""
    stop = end(task_seq, attempt)
    return b"".join(read(task_seq, attempt, max(0, stop - size), stop))


def append(task_seq: int, attempt: int, start: int, data: bytes) -> None:
    """Add the bytes from `start` on, without a commit: the caller's fenced write decides.

    They replace the piece that begins there: when a commit succeeds but its answer is lost, the
    same bytes come again, with more behind them.
    """
    piece = {"task_seq": task_seq, "attempt": attempt, "start": start, "data": data}
    db.session.execute(_appending(db.engine.dialect.name), piece, execution_options=NO_SYNC)


@cache
def _appending(_dialect: str) -> Any:
    """Return the statement that writes a piece, in a kind of database."""
    new = upsert(TaskLog)
    key = ["task_seq", "attempt", "start"]
    return new.on_conflict_do_update(index_elements=key, set_={"data": new.excluded.data})


def read(task_seq: int, attempt: int, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes from `start` to `stop`, with a few pieces at a time in memory."""
    while start < stop and (pieces := _pieces(task_seq, attempt, start)):
        for piece in pieces:
            yield piece[: max(0, stop - start)]
            start += len(piece)


def follow(
    task_seq: int, attempt: int, start: int, *, pause: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield the bytes from `start` on as they are written, until the attempt has ended.

    `pause` sleeps briefly, and returns True to end the stream early.
    """
    while True:
        # Asked before the log is read: what an attempt writes until its end is not missed.
        has_ended = not _is_live(task_seq, attempt)
        stop = end(task_seq, attempt)
        yield from read(task_seq, attempt, start, stop)

        start = max(start, stop)
        if has_ended or pause():
            return


def _is_live(task_seq: int, attempt: int) -> bool:
    """Tell whether an attempt runs, or is still to come."""
    live = Task.seq == task_seq, Task.status.in_(LIVE), Task.attempt <= attempt
    return db.session.scalar(select(Task.seq).where(*live)) is not None


def _pieces(task_seq: int, attempt: int, start: int) -> list[bytes]:
    """Return the next few pieces from byte `start` on, the first one cut to begin there."""
    mine = TaskLog.task_seq == task_seq, TaskLog.attempt == attempt
    first = select(func.max(TaskLog.start)).where(*mine, TaskLog.start <= start).scalar_subquery()
    rows = db.session.execute(
        select(TaskLog.start, TaskLog.data)
        .where(*mine, TaskLog.start >= first)
        .order_by(TaskLog.start)
        .limit(PIECES)
    ).all()
    db.session.rollback()  # a slow reader holds neither a transaction nor a connection
    return [row.data[max(0, start - row.start) :] for row in rows]
