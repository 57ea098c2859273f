"""Retention: ended tasks and their logs go after a while, the newest of each package stays."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import aliased

from models import LIVE, Task, db, soon

BATCH = 500
DAY_SECONDS = 86_400


def count(days: int) -> int:
    """Return how many tasks ended more than so many days ago and are not needed."""
    return db.session.scalar(select(func.count()).select_from(_old(days).subquery())) or 0


def prune(days: int) -> int:
    """Delete such tasks with their logs, in batches that let other writers in; return how many."""
    pruned = 0
    while True:
        batch = _old(days).limit(BATCH).subquery()
        gone = delete(Task).where(Task.seq.in_(select(batch.c.seq))).returning(Task.seq)
        deleted = len(db.session.execute(gone).all())
        db.session.commit()
        pruned += deleted
        if deleted < BATCH:
            return pruned


def _old(days: int) -> Select[Any]:
    newer = aliased(Task)
    # a package's newest task tells how it stands, and its newest success what downloaded it
    has_newer = (
        select(newer.seq)
        .where(
            newer.package_id == Task.package_id,
            newer.seq > Task.seq,
            (newer.status == Task.status) | (Task.status != "succeeded"),
        )
        .exists()
    )
    ended_before: datetime = soon(-days * DAY_SECONDS)
    return (
        select(Task.seq)
        .where(Task.status.not_in(LIVE), Task.finished_at < ended_before, has_newer)
        .order_by(Task.seq)
    )
