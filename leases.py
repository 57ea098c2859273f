"""Leases: a worker's claim on a task, and all that it writes to the task until this ends.

What a worker writes is fenced: it counts only while the task is running under this lease's holder
and attempt. A worker whose lease is gone gets LeaseLost. Every end of a task goes through
`task_ends.end`.
"""

import logging
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, bindparam, or_, select, update

from database import reading
from event_log import Actor
from models import NO_SYNC, Task, TaskKind, TaskStatus, db, soon, utcnow
from task_ends import TaskError, end
from task_subjects import KINDS, Subject, subject_of

log = logging.getLogger("pkgd.queue")

MAX_ATTEMPTS = 3
# How long a task waits whose result the cache did not take: the last one is repeated.
WAIT_SECONDS = (5, 10, 20, 40, 60)


class LeaseLost(Exception):
    """The task is no longer this worker's: nothing more may be written for it."""


LOST = TaskError(
    code="lost",
    message=f"the worker was gone before the end in each of {MAX_ATTEMPTS} attempts",
    hint="look in the service's log for what ends its workers, then download again",
)


@dataclass(frozen=True)
class Lease:
    """A worker's claim on one attempt of a task, for a limited time."""

    seq: int
    task_id: uuid.UUID
    attempt: int
    holder: str
    subject: Subject
    waits: int = 0
    by: Actor | None = None  # who asked for the task, and in which request
    request_id: str | None = None

    @property
    def kind(self) -> TaskKind:
        """What the task does."""
        return KINDS[type(self.subject)]

    def renew(self, seconds: float, *, done: int, expected: int, phase: str) -> bool:
        """Extend the lease to `seconds` from now and show progress, without a commit.

        Return True when a cancel was requested.
        """
        values = {"until": soon(seconds), "now_done": done, "all": expected, "now_phase": phase}
        renewed = self._key() | values
        requested = db.session.scalars(_RENEWAL, renewed, execution_options=NO_SYNC).all()
        self._check(len(requested))
        return requested[0]

    def is_cancel_requested(self) -> bool:
        """Tell whether a cancel was requested; raise LeaseLost when the lease is gone."""
        requested = db.session.scalars(_CANCEL_REQUESTED, self._key()).all()
        db.session.rollback()
        self._check(len(requested))
        return requested[0]

    def succeed(self, *effects: Executable) -> None:
        """End the task, and execute what comes of it, in one transaction."""
        self._end(TaskStatus.SUCCEEDED)
        for effect in effects:
            db.session.execute(effect, execution_options=NO_SYNC)
        db.session.commit()

    def fail(self, error: TaskError) -> None:
        """End the task with the reason."""
        self._end(TaskStatus.FAILED, error)
        db.session.commit()

    def cancel(self, error: TaskError | None = None) -> None:
        """End the task as its user asked, or for the reason that `error` tells."""
        self._end(TaskStatus.CANCELLED, error)
        db.session.commit()

    def requeue(self) -> None:
        """Put the task back in the queue without counting this attempt.

        The service stops, or the task makes way for another.
        """
        self._check(requeue(*self._fence(), attempt=self.attempt - 1))
        db.session.commit()

    def wait(self, reason: str) -> None:
        """Put the task back for a while, without counting this attempt, and show why it waits."""
        at = soon(WAIT_SECONDS[min(self.waits, len(WAIT_SECONDS) - 1)])
        shown = f"{reason}; tried again at {at:%H:%M:%SZ}"
        values = {"attempt": self.attempt - 1, "waits": self.waits + 1, "phase": Task.phase}
        self._check(requeue(*self._fence(), lease_until=at, waiting=shown, **values))
        db.session.commit()

    def retry(self, error: TaskError, seconds: float) -> None:
        """Put the task back for its next attempt in `seconds`; after the last one, fail it."""
        if self.attempt >= MAX_ATTEMPTS:
            self.fail(error)
            return
        at = soon(seconds)
        first, _, _ = error.message.partition("\n")
        reason = f"{first}; attempt {self.attempt + 1} follows at {at:%H:%M:%SZ}"
        self._check(requeue(*self._fence(), lease_until=at, waiting=reason))
        db.session.commit()

    def _end(self, status: TaskStatus, error: TaskError | None = None) -> None:
        """End the task, without a commit."""
        self._check(len(end(*_FENCE, status=status, error=error, key=self._key())))

    def _fence(self) -> tuple[Any, ...]:
        return (
            Task.seq == self.seq,
            Task.lease_holder == self.holder,
            Task.attempt == self.attempt,
            Task.status == TaskStatus.RUNNING,
        )

    def _key(self) -> dict[str, Any]:
        """Return the values of the fence that `_FENCE` has as parameters."""
        return {"mine": self.seq, "holder": self.holder, "this_attempt": self.attempt}

    def _check(self, changed: int) -> None:
        """Raise LeaseLost unless a fenced statement changed the task."""
        if changed != 1:
            db.session.rollback()
            raise LeaseLost


# What a worker executes all the time is built at import: building takes longer than executing.
_FENCE = (
    Task.seq == bindparam("mine"),
    Task.lease_holder == bindparam("holder"),
    Task.attempt == bindparam("this_attempt"),
    Task.status == TaskStatus.RUNNING,
)
_CANCEL_REQUESTED = select(Task.cancel_requested).where(*_FENCE)
_RENEWAL = (
    update(Task)
    .where(*_FENCE)
    .values(
        lease_until=bindparam("until"),
        done=bindparam("now_done"),
        expected=bindparam("all"),
        phase=bindparam("now_phase"),
    )
    .returning(Task.cancel_requested)
)


_RUNNING = select(Task.seq).where(Task.status == TaskStatus.RUNNING).limit(1)


def is_any() -> bool:
    """Tell whether any task is running."""
    with reading() as connection:
        return connection.scalar(_RUNNING) is not None


def holders() -> list[str]:
    """Return who holds the running tasks."""
    running = select(Task.lease_holder).where(Task.status == TaskStatus.RUNNING).distinct()
    return [holder for holder in db.session.scalars(running) if holder is not None]


def reap(dead: Collection[str] = ()) -> int:
    """Requeue, fail or cancel the tasks whose lease ran out or whose holder is dead.

    Return how many they were.
    """
    is_lost = (
        Task.status == TaskStatus.RUNNING,
        or_(Task.lease_until < utcnow(), Task.lease_holder.in_(dead)),
    )
    if db.session.scalar(select(Task.seq).where(*is_lost).limit(1)) is None:
        db.session.rollback()
        return 0

    cancelled = end(*is_lost, Task.cancel_requested, status=TaskStatus.CANCELLED)
    lost = end(*is_lost, Task.attempt >= MAX_ATTEMPTS, status=TaskStatus.FAILED, error=LOST)
    requeued = requeue(*is_lost)
    subjects = [subject_of(task).label for task in lost]
    db.session.commit()
    for task, subject in zip(lost, subjects, strict=True):
        log.warning("task %s: failed: %s, %s (%s)", task.id, LOST.code, LOST.message, subject)
    return len(cancelled) + len(lost) + requeued


def requeue(*where: Any, **more: Any) -> int:
    """Put tasks back in the queue, or end those with a cancel request; return how many they were.

    Nothing is committed; `more` are other values to write.
    """
    freed = {"status": TaskStatus.QUEUED, "phase": None, "lease_holder": None}
    requeued = (
        update(Task)
        .where(*where)
        .values({**freed, "lease_until": None, **more})
        .returning(Task.seq, Task.cancel_requested)
    )
    rows = db.session.execute(requeued, execution_options=NO_SYNC).all()
    cancelled = [row.seq for row in rows if row.cancel_requested]
    if cancelled:
        end(Task.seq.in_(cancelled), status=TaskStatus.CANCELLED)
    return len(rows)
