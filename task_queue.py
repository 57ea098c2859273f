"""The queue of tasks: adding to it, claiming, and every change of a task until its end.

A claim is one statement: indexing comes last, one catalog at a time, and an apply waits, without a
worker, until no package of its set is being downloaded. What a worker
writes afterwards is fenced: it counts only while the task is running under this lease's holder and
attempt. A worker whose lease is gone gets LeaseLost. Every task that ends does so in `end`.
"""

import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable, Select, String, and_, insert, literal, or_, select, update
from sqlalchemy.orm import aliased

import nix
import task_ends
from catalog_models import CatalogIndex
from models import (
    LIVE,
    AnyRow,
    Package,
    PackageStatus,
    Task,
    TaskKind,
    TaskStatus,
    db,
    insert_or_ignore,
    soon,
    utcnow,
)
from profile_models import AppliedPackage, Apply, Profile
from task_ends import TaskError

log = logging.getLogger("pkgd.queue")

MAX_ATTEMPTS = 3
ENDED = (Task.id, Task.kind, Task.attempt, Task.started_at, Task.package_id, Task.index_id)
# The ORM would otherwise look through the session's objects after each statement.
NO_SYNC = {"synchronize_session": False}


class LeaseLost(Exception):
    """The task is no longer this worker's: nothing more may be written for it."""


LOST = TaskError(
    code="lost",
    message=f"the worker was gone before the end in each of {MAX_ATTEMPTS} attempts",
    hint="look in the service's log for what ends its workers, then download again",
)


SUPERSEDED = TaskError(
    code="superseded",
    message="a newer set was given to the profile before this one was applied",
    hint="look at the profile's newest apply",
)
SWITCHED = TaskError(
    code="superseded",
    message="the profile was switched to a generation before this set was applied",
    hint="look at the profile, and apply the set again where it is still wanted",
)
WAITING_FOR_PACKAGES = "the packages of the set are being downloaded"

CODES = {
    "lost": "In each of its attempts the task's worker was gone before the end.",
    "superseded": "Of an apply that was cancelled: a newer one, or a switch, took its place.",
    "download_failed": "Of an apply: packages of the set could not be downloaded.",
    "lock_mismatch": "Of an apply: a package has another store path than the set insists on.",
    "check_failed": "Of an apply: PROFILE_CHECK failed, and the profile is what it was.",
    "profile_changed": "Of an apply: the profile is no longer what If-Match named.",
}


def error_codes() -> dict[str, str]:
    """Return each code that a task can end with, and its meaning in a line."""
    return nix.codes() | CODES


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


Subject = Wanted | Unindexed | WantedSet
KINDS: dict[type[Subject], TaskKind] = {
    Wanted: TaskKind.DOWNLOAD,
    Unindexed: TaskKind.INDEX,
    WantedSet: TaskKind.APPLY,
}


@dataclass(frozen=True)
class Lease:
    """A worker's claim on one attempt of a task, for a limited time."""

    seq: int
    task_id: uuid.UUID
    attempt: int
    holder: str
    subject: Subject

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


def add_indexing(index_id: int) -> uuid.UUID | None:
    """Queue the indexing of a catalog, without a commit, and return its task's id.

    Return None when it has a live task.
    """
    new = insert_or_ignore(Task).values(kind=TaskKind.INDEX, index_id=index_id)
    task_id: uuid.UUID | None = db.session.scalar(new.returning(Task.id))
    return task_id


def add_downloads(package_ids: Collection[int], request_id: str | None) -> bool:
    """Queue the downloads of those packages that need one and have none, without a commit.

    Return whether any needs one. The caller has locked the packages.
    """
    is_created = Package.id.in_(package_ids), Package.status == PackageStatus.CREATED
    created = db.session.scalars(select(Package.id).where(*is_created).order_by(Package.id))
    if rows := [{"package_id": one, "request_id": request_id} for one in created]:
        db.session.execute(insert_or_ignore(Task).values(rows), execution_options=NO_SYNC)
    return bool(rows)


def add_apply(
    profile_id: int,
    packages: Mapping[int, str | None],
    request_id: str | None,
    *,
    waits: bool,
    **more: Any,
) -> uuid.UUID:
    """Queue an apply of a set to a profile, without a commit, and return its task's id.

    `packages` are ids, each with the store path that it must have, if any. The apply takes the
    place of those that wait. `waits` tells that packages are being downloaded, and `more` are other
    values of the Apply.
    """
    is_older = _is_apply_to(profile_id), Task.status == TaskStatus.QUEUED
    end(*is_older, status=TaskStatus.CANCELLED, error=SUPERSEDED)
    waiting = WAITING_FOR_PACKAGES if waits else None
    task = Task(kind=TaskKind.APPLY, request_id=request_id, waiting=waiting)
    db.session.add(task)
    db.session.flush()
    db.session.add(Apply(task_seq=task.seq, profile_id=profile_id, **more))
    db.session.flush()
    rows = [
        {"task_seq": task.seq, "package_id": one, "store_path": path}
        for one, path in packages.items()
    ]
    if rows:
        db.session.execute(insert(AppliedPackage), rows)
    return task.id


def supersede(profile_id: int) -> None:
    """Cancel the applies to a profile that wait or run, without a commit: it is switched later.

    The caller has the lock of all changes, so that one that runs hasn't begun to change anything,
    or hasn't told yet that it has: its lease is gone.
    """
    is_live = _is_apply_to(profile_id), Task.status.in_(LIVE)
    end(*is_live, status=TaskStatus.CANCELLED, error=SWITCHED)


def _is_apply_to(profile_id: int) -> Any:
    return Task.seq.in_(select(Apply.task_seq).where(Apply.profile_id == profile_id))


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
    """Take the first queued task that is due for `holder`; None when there is none.

    Applies come first, then downloads, the oldest before the others, and one catalog is indexed at
    a time.
    """
    first = _first_due()
    # The queue is mostly empty when it is asked: a read doesn't take SQLite's write lock.
    found = db.session.execute(first).one_or_none()
    if found is not None and found.kind == TaskKind.INDEX:
        _take_turn()
    taking = (
        update(Task)
        .where(
            Task.seq
            == first.with_only_columns(Task.seq).with_for_update(skip_locked=True).scalar_subquery()
        )
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
        .returning(Task.seq, Task.id, Task.attempt, Task.kind, Task.package_id, Task.index_id)
    )
    taken = found and db.session.execute(taking, execution_options=NO_SYNC).one_or_none()
    if taken is None:
        db.session.rollback()
        return None

    lease = Lease(taken.seq, taken.id, taken.attempt, holder, _subject(taken))
    db.session.commit()
    return lease


def _first_due() -> Select[int, TaskKind]:
    """Select the task to take next."""
    other = aliased(Task)
    is_indexing = (
        select(other.seq)
        .where(other.kind == TaskKind.INDEX, other.status == TaskStatus.RUNNING)
        .exists()
    )
    is_index, is_apply = Task.kind == TaskKind.INDEX, Task.kind == TaskKind.APPLY
    return (
        select(Task.seq, Task.kind)
        .where(*_is_due(), or_(~is_index, ~is_indexing))
        .order_by(is_index, is_apply.desc(), Task.seq)
        .limit(1)
    )


def _take_turn() -> None:
    """Wait for others who claim an indexing, so that no two see that none runs.

    Only under PostgreSQL: SQLite has one writer at a time anyway.
    """
    indexing = select(Task.seq).where(Task.kind == TaskKind.INDEX, Task.status.in_(LIVE))
    db.session.execute(indexing.order_by(Task.seq).limit(1).with_for_update())


def _subject(taken: AnyRow) -> Subject:
    """Return what a claimed task is about."""
    if taken.kind == TaskKind.APPLY:
        subject = Apply.task_seq, Profile.id, Profile.name, Apply.by, Apply.revision
        applied = select(*subject).join(Profile).where(Apply.task_seq == taken.seq)
        return WantedSet(*db.session.execute(applied).one())
    if taken.kind == TaskKind.DOWNLOAD:
        wanted = select(Package.id, Package.name, Package.version)
        return Wanted(*db.session.execute(wanted.where(Package.id == taken.package_id)).one())
    index = select(CatalogIndex.id, CatalogIndex.catalog, CatalogIndex.signature)
    return Unindexed(*db.session.execute(index.where(CatalogIndex.id == taken.index_id)).one())


def is_other_waiting(seconds: float) -> bool:
    """Tell whether a task other than an indexing has been due for so many seconds."""
    before = soon(-seconds)
    is_old = Task.created_at <= before, or_(Task.lease_until.is_(None), Task.lease_until <= before)
    waiting = select(Task.seq).where(*_is_due(), Task.kind != TaskKind.INDEX, *is_old)
    is_waiting = db.session.scalar(waiting.limit(1)) is not None
    db.session.rollback()
    return is_waiting


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
    """Select the queued tasks but those whose next attempt is later, or that wait for others."""
    is_time = or_(Task.lease_until.is_(None), Task.lease_until <= utcnow())
    return Task.status == TaskStatus.QUEUED, is_time, ~_is_waiting_for_packages()


def _is_waiting_for_packages() -> Any:
    """Select the applies of which a package is being downloaded."""
    download = aliased(Task)
    needed = (
        select(AppliedPackage.package_id)
        .join(download, download.package_id == AppliedPackage.package_id)
        .where(AppliedPackage.task_seq == Task.seq, download.status.in_(LIVE))
        .correlate(Task)
        .exists()
    )
    return and_(Task.kind == TaskKind.APPLY, needed)


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

    cancelled = end(*is_lost, Task.cancel_requested, status=TaskStatus.CANCELLED)
    lost = end(*is_lost, Task.attempt >= MAX_ATTEMPTS, status=TaskStatus.FAILED, error=LOST)
    requeued = _requeue(*is_lost)
    subjects = [_subject(task).label for task in lost]
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
