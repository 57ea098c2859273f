"""The queue: claiming tasks, and every change that a worker makes to one.

A claim is one statement. What a worker writes afterwards is fenced: it counts only while the task
is running under this lease's holder and attempt, and a worker whose lease is gone gets LeaseLost.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, case, delete, insert, null, or_, select, update

from models import (
    LIVE,
    PackageStatus,
    Task,
    TaskStatus,
    db,
    soon,
    utcnow,
)

MAX_ATTEMPTS = 3

# tables, not models: the ORM would look through its session after each statement
PACKAGES, TASKS, LOGS = map(db.metadata.tables.__getitem__, ("packages", "tasks", "task_logs"))


class LeaseLost(Exception):
    """The task is no longer this worker's: nothing more may be written for it."""


@dataclass(frozen=True)
class Failure:
    """Why a task failed: a code for programs, a message and a hint for people."""

    code: str
    message: str
    hint: str


LOST = Failure(
    code="lost",
    message=f"the worker was gone before the end in each of {MAX_ATTEMPTS} attempts",
    hint="look in the service's log for what ends its workers, then download again",
)


@dataclass(frozen=True)
class Realised:
    """What a download came to: the derivation, where it was found, its store paths, main first."""

    catalog: str
    attr: str
    drv_path: str
    store_paths: tuple[str, ...]
    closure_size: int


@dataclass(frozen=True)
class Lease:
    """A worker's claim on one attempt of a task, for a limited time."""

    seq: int
    task_id: uuid.UUID
    attempt: int
    holder: str
    package_id: int
    name: str
    version: str

    def renew(self, seconds: float, *, done: int, expected: int, phase: str) -> bool:
        """Hold on for `seconds` more and show progress, to be committed by the caller.

        Tell whether a cancel was requested.
        """
        return self._write(lease_until=soon(seconds), done=done, expected=expected, phase=phase)

    def is_cancel_requested(self) -> bool:
        """Tell whether a cancel was requested; LeaseLost when the lease is gone."""
        mine = select(TASKS.c.cancel_requested).where(*self._fence())
        requested: bool | None = db.session.scalar(mine)
        db.session.rollback()
        if requested is None:
            raise LeaseLost
        return requested

    def append_log(self, start: int, data: bytes) -> None:
        """Add a piece of log that begins at byte `start`, to be committed by the caller.

        It takes the place of what is there from `start` on: a piece whose commit went through
        without our hearing of it comes again, and longer.
        """
        mine = LOGS.c.task_seq == self.seq, LOGS.c.attempt == self.attempt
        db.session.execute(delete(LOGS).where(*mine, LOGS.c.start >= start))
        piece = {"task_seq": self.seq, "attempt": self.attempt, "start": start, "data": data}
        db.session.execute(insert(LOGS).values(piece))

    def succeed(self, realised: Realised) -> None:
        """End the task, and make its package downloaded, in one transaction."""
        self._write(**_ended(TaskStatus.SUCCEEDED))
        db.session.execute(
            update(PACKAGES)
            .where(PACKAGES.c.id == self.package_id, PACKAGES.c.status == PackageStatus.CREATED)
            .values(
                status=PackageStatus.DOWNLOADED,
                catalog=realised.catalog,
                attr=realised.attr,
                drv_path=realised.drv_path,
                store_path=realised.store_paths[0],
                store_paths=list(realised.store_paths),
                closure_size=realised.closure_size,
            )
        )
        db.session.commit()

    def fail(self, failure: Failure) -> None:
        """End the task with the reason."""
        self._write(**_ended(TaskStatus.FAILED), **_error(failure))
        db.session.commit()

    def cancel(self) -> None:
        """End the task as its user asked."""
        self._write(**_ended(TaskStatus.CANCELLED))
        db.session.commit()

    def requeue(self) -> None:
        """Put the task back in the queue, this attempt not counted, as the service stops."""
        self._write(**_returned(), attempt=self.attempt - 1)
        db.session.commit()

    def retry(self) -> None:
        """Put the task back for its next attempt; after the last one it fails with `lost`."""
        if self.attempt >= MAX_ATTEMPTS:
            self.fail(LOST)
        else:
            self._write(**_returned())
            db.session.commit()

    def _fence(self) -> tuple[Any, ...]:
        return (
            TASKS.c.seq == self.seq,
            TASKS.c.lease_holder == self.holder,
            TASKS.c.attempt == self.attempt,
            TASKS.c.status == TaskStatus.RUNNING,
        )

    def _write(self, **values: Any) -> bool:
        fenced = update(TASKS).where(*self._fence()).values(**values)
        requested: bool | None = db.session.scalar(fenced.returning(TASKS.c.cancel_requested))
        if requested is None:
            db.session.rollback()
            raise LeaseLost
        return requested


def claim(holder: str, lease_seconds: float) -> Lease | None:
    """Take the oldest queued task for `holder`; None when nothing is queued."""
    queued = TASKS.c.status == TaskStatus.QUEUED
    oldest = select(TASKS.c.seq).where(queued).order_by(TASKS.c.seq).limit(1)
    # an empty queue is asked often: a read doesn't take SQLite's write lock
    if db.session.scalar(oldest) is None:
        db.session.rollback()
        return None

    taken = db.session.execute(
        update(TASKS)
        .where(TASKS.c.seq == oldest.with_for_update(skip_locked=True).scalar_subquery())
        .values(
            status=TaskStatus.RUNNING,
            attempt=TASKS.c.attempt + 1,
            waiting=None,
            done=0,
            expected=0,
            phase=None,
            started_at=utcnow(),
            lease_holder=holder,
            lease_until=soon(lease_seconds),
        )
        .returning(TASKS.c.seq, TASKS.c.id, TASKS.c.attempt, TASKS.c.package_id)
    ).one_or_none()
    if taken is None:
        db.session.rollback()
        return None

    package = db.session.execute(
        select(PACKAGES.c.name, PACKAGES.c.version).where(PACKAGES.c.id == taken.package_id)
    ).one()
    db.session.commit()
    return Lease(
        seq=taken.seq,
        task_id=taken.id,
        attempt=taken.attempt,
        holder=holder,
        package_id=taken.package_id,
        name=package.name,
        version=package.version,
    )


def holders() -> list[str]:
    """Return who holds the running tasks."""
    held = select(Task.lease_holder).where(Task.status == TaskStatus.RUNNING).distinct()
    return [holder for holder in db.session.scalars(held) if holder is not None]


def live(task_ids: Collection[str]) -> set[str]:
    """Return those of the tasks that are queued or running."""
    if not task_ids:
        return set()
    asked = Task.id.in_(map(uuid.UUID, task_ids))
    return set(map(str, db.session.scalars(select(Task.id).where(asked, Task.status.in_(LIVE)))))


def reap(dead: Collection[str] = ()) -> int:
    """Requeue, fail or cancel the tasks whose lease ran out or whose holder is dead; count them."""
    lost = (
        Task.status == TaskStatus.RUNNING,
        or_(Task.lease_until < utcnow(), Task.lease_holder.in_(dead)),
    )
    if db.session.scalar(select(Task.seq).where(*lost).limit(1)) is None:
        db.session.rollback()
        return 0

    changes = [
        _reaping(*lost, Task.cancel_requested, values=_ended(TaskStatus.CANCELLED)),
        _reaping(
            *lost,
            Task.attempt >= MAX_ATTEMPTS,
            values=_ended(TaskStatus.FAILED) | _error(LOST),
        ),
        _reaping(*lost, values=_returned()),
    ]
    reaped = sum(len(db.session.execute(change).all()) for change in changes)
    db.session.commit()
    return reaped


def _reaping(*where: Any, values: dict[str, Any]) -> Update:
    return update(Task).where(*where).values(**values).returning(Task.seq)


def _ended(status: TaskStatus) -> dict[str, Any]:
    return {
        "status": status,
        "finished_at": utcnow(),
        "lease_holder": None,
        "lease_until": None,
        "phase": None,
    }


def _returned() -> dict[str, Any]:
    """Values for the queue again, or for the end where a cancel waits to be carried out."""
    wanted = Task.cancel_requested
    return {
        "status": case((wanted, TaskStatus.CANCELLED), else_=TaskStatus.QUEUED),
        "finished_at": case((wanted, utcnow()), else_=null()),
        "lease_holder": None,
        "lease_until": None,
        "phase": None,
    }


def _error(failure: Failure) -> dict[str, str]:
    return {
        "error_code": failure.code,
        "error_message": failure.message,
        "error_hint": failure.hint,
    }
