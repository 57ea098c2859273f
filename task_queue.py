"""The queue of tasks: adding to it, claiming, and every change of a task until its end.

A claim is one statement. What a worker writes afterwards is fenced: it counts only while the task
is running under this lease's holder and attempt. A worker whose lease is gone gets LeaseLost. Every
task that ends does so in `end`.
"""

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import String, literal, or_, select, update

import nix
from models import (
    LIVE,
    Package,
    PackageStatus,
    Task,
    TaskStatus,
    db,
    insert_or_ignore,
    soon,
    utcnow,
)

MAX_ATTEMPTS = 3
# The ORM would otherwise look through the session's objects after each statement.
NO_SYNC = {"synchronize_session": False}


class LeaseLost(Exception):
    """The task is no longer this worker's: nothing more may be written for it."""


@dataclass(frozen=True)
class TaskError:
    """Why a task failed: a code for programs, a message and a hint for people.

    `reason` is that of a refusal.
    """

    code: str
    message: str
    hint: str
    reason: str | None = None


LOST = TaskError(
    code="lost",
    message=f"the worker was gone before the end in each of {MAX_ATTEMPTS} attempts",
    hint="look in the service's log for what ends its workers, then download again",
)


def error_codes() -> dict[str, str]:
    """Return each code that a task can fail with, and its meaning in a line."""
    lost = "In each of its attempts the task's worker was gone before the end."
    return nix.codes() | {LOST.code: lost}


@dataclass(frozen=True)
class Found:
    """Where a package was found, though it may have failed; a refused one has no derivation."""

    catalog: str | None = None
    attr: str | None = None
    spelled: str | None = None
    drv_path: str | None = None


@dataclass(frozen=True)
class Realised:
    """The result of a download: store paths, the main one first, and the closure's bytes."""

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

    def note(self, found: Found) -> None:
        """Record where the package was found, without a commit."""
        noted = update(Package).where(Package.id == self.package_id).values(**asdict(found))
        db.session.execute(noted, execution_options=NO_SYNC)

    def succeed(self, realised: Realised) -> None:
        """End the task, and make its package downloaded, in one transaction."""
        self._check(end(*self._fence(), status=TaskStatus.SUCCEEDED))

        is_created = Package.id == self.package_id, Package.status == PackageStatus.CREATED
        downloaded = update(Package).where(*is_created)
        db.session.execute(
            downloaded.values(
                status=PackageStatus.DOWNLOADED,
                store_path=realised.store_paths[0],
                store_paths=list(realised.store_paths),
                closure_size=realised.closure_size,
            ),
            execution_options=NO_SYNC,
        )
        db.session.commit()

    def fail(self, error: TaskError) -> None:
        """End the task with the reason."""
        self._check(end(*self._fence(), status=TaskStatus.FAILED, error=error))
        db.session.commit()

    def cancel(self) -> None:
        """End the task as its user asked."""
        self._check(end(*self._fence(), status=TaskStatus.CANCELLED))
        db.session.commit()

    def requeue(self) -> None:
        """Put the task back in the queue without counting this attempt, as the service stops."""
        self._check(_requeue(*self._fence(), attempt=self.attempt - 1))
        db.session.commit()

    def retry(self, error: TaskError, seconds: float) -> None:
        """Put the task back for its next attempt in `seconds`; after the last one, fail it."""
        if self.attempt >= MAX_ATTEMPTS:
            self.fail(error)
            return
        at = soon(seconds)
        first, _, _ = error.message.partition("\n")
        reason = f"{first}; attempt {self.attempt + 1} follows at {at:%H:%M:%SZ}"
        self._check(_requeue(*self._fence(), lease_until=at, waiting=reason))
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


def add(package_id: int, request_id: str | None = None) -> uuid.UUID | None:
    """Queue the download of a package and return its task's id.

    Return None when the package isn't `created` any more, or has a live task.
    """
    # The row is locked so that it can't be deleted before the task refers to it.
    created = (
        select(Package.id, literal(request_id, String))
        .where(Package.id == package_id, Package.status == PackageStatus.CREATED)
        .with_for_update(read=True, key_share=True)
    )
    new = insert_or_ignore(Task).from_select(["package_id", "request_id"], created)
    task_id: uuid.UUID | None = db.session.scalar(new.returning(Task.id))
    db.session.commit()
    return task_id


def request_cancel(task_id: uuid.UUID) -> bool:
    """Cancel a queued task at once, and ask the worker of a running one to stop it.

    Return False when the task has ended.
    """
    is_same = Task.id == task_id
    marked = update(Task).where(is_same, Task.status.in_(LIVE)).values(cancel_requested=True)
    is_live = db.session.scalar(marked.returning(Task.seq), execution_options=NO_SYNC) is not None
    if is_live:
        end(is_same, Task.status == TaskStatus.QUEUED, status=TaskStatus.CANCELLED)
    db.session.commit()
    return is_live


def claim(holder: str, lease_seconds: float) -> Lease | None:
    """Take the oldest queued task that is due for `holder`; None when there is none."""
    oldest = select(Task.seq).where(*_is_due()).order_by(Task.seq).limit(1)
    # The queue is mostly empty when it is asked: a read doesn't take SQLite's write lock.
    if db.session.scalar(oldest) is None:
        db.session.rollback()
        return None

    taking = (
        update(Task)
        .where(Task.seq == oldest.with_for_update(skip_locked=True).scalar_subquery())
        .values(
            status=TaskStatus.RUNNING,
            attempt=Task.attempt + 1,
            waiting=None,
            done=0,
            expected=0,
            phase=None,
            started_at=utcnow(),
            lease_holder=holder,
            lease_until=soon(lease_seconds),
        )
        .returning(Task.seq, Task.id, Task.attempt, Task.package_id)
    )
    taken = db.session.execute(taking, execution_options=NO_SYNC).one_or_none()
    if taken is None:
        db.session.rollback()
        return None

    wanted = select(Package.name, Package.version).where(Package.id == taken.package_id)
    package = db.session.execute(wanted).one()
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
    """Show on every task that is due why it isn't taken; None when nothing holds it up."""
    unexplained = *_is_due(), Task.waiting.is_distinct_from(reason)
    if db.session.scalar(select(Task.seq).where(*unexplained).limit(1)) is None:
        db.session.rollback()
        return
    explanation = update(Task).where(*unexplained).values(waiting=reason)
    db.session.execute(explanation, execution_options=NO_SYNC)
    db.session.commit()


def _is_due() -> tuple[Any, ...]:
    """Select the queued tasks but those whose next attempt is later."""
    is_time = or_(Task.lease_until.is_(None), Task.lease_until <= utcnow())
    return Task.status == TaskStatus.QUEUED, is_time


def holders() -> list[str]:
    """Return who holds the running tasks."""
    running = select(Task.lease_holder).where(Task.status == TaskStatus.RUNNING).distinct()
    return [holder for holder in db.session.scalars(running) if holder is not None]


def live(task_ids: Collection[str]) -> set[str]:
    """Return those of the tasks that are queued or running."""
    if not task_ids:
        return set()
    these = Task.id.in_(map(uuid.UUID, task_ids))
    return set(map(str, db.session.scalars(select(Task.id).where(these, Task.status.in_(LIVE)))))


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

    reaped = end(*is_lost, Task.cancel_requested, status=TaskStatus.CANCELLED)
    reaped += end(*is_lost, Task.attempt >= MAX_ATTEMPTS, status=TaskStatus.FAILED, error=LOST)
    reaped += _requeue(*is_lost)
    db.session.commit()
    return reaped


def end(*where: Any, status: TaskStatus, error: TaskError | None = None) -> int:
    """End the tasks that `where` selects, without a commit; return how many they were."""
    ended = (
        update(Task)
        .where(*where)
        .values(
            status=status,
            finished_at=utcnow(),
            waiting=None,
            phase=None,
            lease_holder=None,
            lease_until=None,
            error_code=error and error.code,
            error_message=error and error.message,
            error_hint=error and error.hint,
            error_reason=error and error.reason,
        )
    )

    return len(db.session.execute(ended.returning(Task.seq), execution_options=NO_SYNC).all())


def _requeue(*where: Any, **more: Any) -> int:
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
