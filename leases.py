"""The queue: claiming tasks, and every change that a worker makes to one.

A claim is one statement. What a worker writes afterwards is fenced: it counts only while the task
is running under this lease's holder and attempt, and a worker whose lease is gone gets LeaseLost.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Update,
    bindparam,
    case,
    delete,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from models import (
    LIVE,
    PackageStatus,
    Task,
    TaskStatus,
    db,
    soon,
    utcnow,
)
from statements import Statement

MAX_ATTEMPTS = 3

# tables, not models: the ORM would look through its session after each statement
PACKAGES, TASKS, LOGS = map(db.metadata.tables.__getitem__, ("packages", "tasks", "task_logs"))

# Built once, which takes longer than to execute them. What an update sets is, but for what is said
# here, what it is given values for.
OLDEST = (
    select(TASKS.c.seq).where(TASKS.c.status == TaskStatus.QUEUED).order_by(TASKS.c.seq).limit(1)
)
ANY_QUEUED = Statement(OLDEST)
UNEXPLAINED = (
    TASKS.c.status == TaskStatus.QUEUED,
    TASKS.c.waiting.is_distinct_from(bindparam("reason")),
)
ANY_UNEXPLAINED = Statement(select(TASKS.c.seq).where(*UNEXPLAINED).limit(1))
EXPLAIN = update(TASKS).where(*UNEXPLAINED).values(waiting=bindparam("reason"))
TAKE = (
    update(TASKS)
    .where(TASKS.c.seq == OLDEST.with_for_update(skip_locked=True).scalar_subquery())
    .values(attempt=TASKS.c.attempt + 1)
    .returning(TASKS.c.seq, TASKS.c.id, TASKS.c.attempt, TASKS.c.package_id)
)
PACKAGE = select(PACKAGES.c.name, PACKAGES.c.version).where(PACKAGES.c.id == bindparam("its_id"))
FENCE = (
    TASKS.c.seq == bindparam("its_seq"),
    TASKS.c.lease_holder == bindparam("its_holder"),
    TASKS.c.attempt == bindparam("its_attempt"),
    TASKS.c.status == TaskStatus.RUNNING,
)
HOLDERS = select(TASKS.c.lease_holder).where(TASKS.c.status == TaskStatus.RUNNING).distinct()
ANY_LOST = (
    select(TASKS.c.seq)
    .where(
        TASKS.c.status == TaskStatus.RUNNING,
        or_(
            TASKS.c.lease_until < bindparam("now"),
            TASKS.c.lease_holder.in_(bindparam("dead", expanding=True)),
        ),
    )
    .limit(1)
)
CANCEL_REQUESTED = select(TASKS.c.cancel_requested).where(*FENCE)
CHANGE = update(TASKS).where(*FENCE).returning(TASKS.c.cancel_requested)
CUT_LOG = delete(LOGS).where(
    LOGS.c.task_seq == bindparam("its_seq"),
    LOGS.c.attempt == bindparam("its_attempt"),
    LOGS.c.start >= bindparam("its_start"),
)
ADD_LOG = insert(LOGS)
DOWNLOADED = update(PACKAGES).where(
    PACKAGES.c.id == bindparam("its_id"), PACKAGES.c.status == PackageStatus.CREATED
)


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
        shown = {"done": done, "expected": expected, "phase": phase}
        return self._write({"lease_until": soon(seconds), **shown})

    def is_cancel_requested(self) -> bool:
        """Tell whether a cancel was requested; LeaseLost when the lease is gone."""
        requested: bool | None = db.session.scalar(CANCEL_REQUESTED, self._fence())
        db.session.rollback()
        if requested is None:
            raise LeaseLost
        return requested

    def append_log(self, start: int, data: bytes) -> None:
        """Add a piece of log that begins at byte `start`, to be committed by the caller.

        It takes the place of what is there from `start` on: a piece whose commit went through
        without our hearing of it comes again, and longer.
        """
        mine = {"its_seq": self.seq, "its_attempt": self.attempt, "its_start": start}
        db.session.execute(CUT_LOG, mine)
        piece = {"task_seq": self.seq, "attempt": self.attempt, "start": start, "data": data}
        db.session.execute(ADD_LOG, piece)

    def succeed(self, realised: Realised) -> None:
        """End the task, and make its package downloaded, in one transaction."""
        self._write(_ended(TaskStatus.SUCCEEDED))
        found = {
            "its_id": self.package_id,
            "status": PackageStatus.DOWNLOADED,
            "catalog": realised.catalog,
            "attr": realised.attr,
            "drv_path": realised.drv_path,
            "store_path": realised.store_paths[0],
            "store_paths": list(realised.store_paths),
            "closure_size": realised.closure_size,
        }
        db.session.execute(DOWNLOADED, found)
        db.session.commit()

    def fail(self, failure: Failure) -> None:
        """End the task with the reason."""
        self._write(_ended(TaskStatus.FAILED) | _error(failure))
        db.session.commit()

    def cancel(self) -> None:
        """End the task as its user asked."""
        self._write(_ended(TaskStatus.CANCELLED))
        db.session.commit()

    def requeue(self) -> None:
        """Put the task back in the queue, this attempt not counted, as the service stops."""
        self._write({"attempt": self.attempt - 1}, CHANGE.values(**_returned()))
        db.session.commit()

    def retry(self) -> None:
        """Put the task back for its next attempt; after the last one it fails with `lost`."""
        if self.attempt >= MAX_ATTEMPTS:
            self.fail(LOST)
        else:
            self._write({}, CHANGE.values(**_returned()))
            db.session.commit()

    def _fence(self) -> dict[str, Any]:
        return {"its_seq": self.seq, "its_holder": self.holder, "its_attempt": self.attempt}

    def _write(self, values: dict[str, Any], change: ReturningUpdate[Any] = CHANGE) -> bool:
        requested: bool | None = db.session.scalar(change, self._fence() | values)
        if requested is None:
            db.session.rollback()
            raise LeaseLost
        return requested


def claim(holder: str, lease_seconds: float) -> Lease | None:
    """Take the oldest queued task for `holder`; None when nothing is queued."""
    # an empty queue is asked often: a read doesn't take SQLite's write lock
    if ANY_QUEUED.first(db.engine) is None:
        return None

    values = {
        "status": TaskStatus.RUNNING,
        "waiting": None,
        "done": 0,
        "expected": 0,
        "phase": None,
        "started_at": utcnow(),
        "lease_holder": holder,
        "lease_until": soon(lease_seconds),
    }
    taken = db.session.execute(TAKE, values).one_or_none()
    if taken is None:
        db.session.rollback()
        return None

    package = db.session.execute(PACKAGE, {"its_id": taken.package_id}).one()
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


def explain_wait(reason: str | None) -> None:
    """Show on every queued task why it isn't taken; None when nothing holds it up."""
    if ANY_UNEXPLAINED.first(db.engine, reason=reason) is not None:
        db.session.execute(EXPLAIN, {"reason": reason})
        db.session.commit()


def holders() -> list[str]:
    """Return who holds the running tasks."""
    return [holder for holder in db.session.scalars(HOLDERS) if holder is not None]


def live(task_ids: Collection[str]) -> set[str]:
    """Return those of the tasks that are queued or running."""
    if not task_ids:
        return set()
    asked = Task.id.in_(map(uuid.UUID, task_ids))
    return set(map(str, db.session.scalars(select(Task.id).where(asked, Task.status.in_(LIVE)))))


def reap(dead: Collection[str] = ()) -> int:
    """Requeue, fail or cancel the tasks whose lease ran out or whose holder is dead; count them."""
    now = utcnow()
    if db.session.scalar(ANY_LOST, {"now": now, "dead": list(dead)}) is None:
        db.session.rollback()
        return 0

    lost = (
        Task.status == TaskStatus.RUNNING,
        or_(Task.lease_until < now, Task.lease_holder.in_(dead)),
    )
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
