"""Leases: a worker's claim on a task, and every change of a task by it, until the task's end.

What a worker writes is fenced: it counts only while the task is running under this lease's holder
and attempt. A worker whose lease is gone gets LeaseLost. Every task that ends does so in `end`.
"""

import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, or_, select, update

import task_ends
from catalog_models import CatalogIndex
from models import AnyRow, Package, Task, TaskKind, TaskStatus, db, soon, utcnow
from profile_models import Apply, Profile
from task_ends import TaskError

log = logging.getLogger("pkgd.queue")

MAX_ATTEMPTS = 3
SUBJECT = Task.seq, Task.kind, Task.package_id, Task.index_id, Task.profile_id
ENDED = (Task.id, Task.attempt, Task.started_at, *SUBJECT)
# Before a task whose result the cache did not take tries again: the last one from then on.
WAIT_SECONDS = (5, 10, 20, 40, 60)
# The ORM would otherwise look through the session's objects after each statement.
NO_SYNC = {"synchronize_session": False}


class LeaseLost(Exception):
    """The task is no longer this worker's: nothing more may be written for it."""


LOST = TaskError(
    code="lost",
    message=f"the worker was gone before the end in each of {MAX_ATTEMPTS} attempts",
    hint="look in the service's log for what ends its workers, then download again",
)


@dataclass(frozen=True)
class Wanted:
    """The package that a task downloads."""

    package_id: int
    name: str
    version: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"{self.name} {self.version}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"package": self.name, "version": self.version}


@dataclass(frozen=True)
class Unindexed:
    """The catalog that a task indexes, in the state that the signature stands for."""

    index_id: int
    catalog: str
    signature: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"catalog {self.catalog}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"catalog": self.catalog}


@dataclass(frozen=True)
class WantedSet:
    """The profile that is to hold exactly a set of packages, those of the apply with this `seq`.

    `revision` is the state of the profile that the set is meant for; None for any.
    """

    seq: int
    profile_id: int
    profile: str
    by: str | None
    revision: int | None

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"profile {self.profile}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"profile": self.profile}


@dataclass(frozen=True)
class Unpublished:
    """The profile whose active generation a task publishes."""

    profile_id: int
    profile: str

    @property
    def label(self) -> str:
        """What to call it in the log."""
        return f"profile {self.profile}"

    @property
    def facts(self) -> dict[str, str]:
        """What to add to a line of the log."""
        return {"profile": self.profile}


Subject = Wanted | Unindexed | WantedSet | Unpublished
KINDS: dict[type[Subject], TaskKind] = {
    Wanted: TaskKind.DOWNLOAD,
    Unindexed: TaskKind.INDEX,
    WantedSet: TaskKind.APPLY,
    Unpublished: TaskKind.PUBLISH,
}


@dataclass(frozen=True)
class Lease:
    """A worker's claim on one attempt of a task, for a limited time."""

    seq: int
    task_id: uuid.UUID
    attempt: int
    holder: str
    subject: Subject
    waits: int = 0

    @property
    def kind(self) -> TaskKind:
        """What the task does."""
        return KINDS[type(self.subject)]

    def renew(self, seconds: float, *, done: int, expected: int, phase: str) -> bool:
        """Extend the lease to `seconds` from now and show progress, without a commit.

        Return True when a cancel was requested.
        """
        renewed = (
            update(Task)
            .where(*self._fence())
            .values(lease_until=soon(seconds), done=done, expected=expected, phase=phase)
            .returning(Task.cancel_requested)
        )
        requested = db.session.scalars(renewed, execution_options=NO_SYNC).all()
        self._check(len(requested))
        return requested[0]

    def is_cancel_requested(self) -> bool:
        """Tell whether a cancel was requested; raise LeaseLost when the lease is gone."""
        requested = db.session.scalars(select(Task.cancel_requested).where(*self._fence())).all()
        db.session.rollback()
        self._check(len(requested))
        return requested[0]

    def succeed(self, *effects: Executable) -> None:
        """End the task, and execute what comes of it, in one transaction."""
        self._check(len(end(*self._fence(), status=TaskStatus.SUCCEEDED)))
        for effect in effects:
            db.session.execute(effect, execution_options=NO_SYNC)
        db.session.commit()

    def fail(self, error: TaskError) -> None:
        """End the task with the reason."""
        self._check(len(end(*self._fence(), status=TaskStatus.FAILED, error=error)))
        db.session.commit()

    def cancel(self, error: TaskError | None = None) -> None:
        """End the task as its user asked, or for the reason that `error` tells."""
        self._check(len(end(*self._fence(), status=TaskStatus.CANCELLED, error=error)))
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

    def _fence(self) -> tuple[Any, ...]:
        return (
            Task.seq == self.seq,
            Task.lease_holder == self.holder,
            Task.attempt == self.attempt,
            Task.status == TaskStatus.RUNNING,
        )

    def _check(self, changed: int) -> None:
        """Raise LeaseLost unless a fenced statement changed the task."""
        if changed != 1:
            db.session.rollback()
            raise LeaseLost


def subject_of(taken: AnyRow) -> Subject:
    """Return what a claimed task is about."""
    if taken.kind == TaskKind.APPLY:
        subject = Apply.task_seq, Profile.id, Profile.name, Apply.by, Apply.revision
        applied = select(*subject).join(Profile).where(Apply.task_seq == taken.seq)
        return WantedSet(*db.session.execute(applied).one())
    if taken.kind == TaskKind.PUBLISH:
        profile = select(Profile.id, Profile.name).where(Profile.id == taken.profile_id)
        return Unpublished(*db.session.execute(profile).one())
    if taken.kind == TaskKind.DOWNLOAD:
        wanted = select(Package.id, Package.name, Package.version)
        return Wanted(*db.session.execute(wanted.where(Package.id == taken.package_id)).one())
    index = select(CatalogIndex.id, CatalogIndex.catalog, CatalogIndex.signature)
    return Unindexed(*db.session.execute(index.where(CatalogIndex.id == taken.index_id)).one())


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


def end(*where: Any, status: TaskStatus, error: TaskError | None = None) -> Sequence[AnyRow]:
    """End the tasks that `where` selects, without a commit, and return them."""
    now = utcnow()
    ended = (
        update(Task)
        .where(*where)
        .values(
            status=status,
            finished_at=now,
            waiting=None,
            phase=None,
            lease_holder=None,
            lease_until=None,
            error_code=error and error.code,
            error_message=error and error.message,
            error_hint=error and error.hint,
            error_reason=error and error.reason,
        )
        .returning(*ENDED)
    )

    tasks = db.session.execute(ended, execution_options=NO_SYNC).all()
    code = error.code if error and status == TaskStatus.FAILED else None
    for task in tasks:
        task_ends.note(task, status, code, now)
    return tasks


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
