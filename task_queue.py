"""The queue of tasks: adding to it, and claiming from it. Leases are in leases.py.

A claim is made by one statement. Work on catalogs comes last, on one at a time: indexing, then
verification. An apply waits, without a worker, until no package of its set is being downloaded.
"""

import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    Select,
    String,
    and_,
    bindparam,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

import event_log
import task_events
from database import reading
from leases import Lease, LeaseLost
from models import (
    LIVE,
    NO_SYNC,
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
from profiles.models import AppliedPackage, Apply
from task_ends import TaskError, end
from task_subjects import SUBJECT, subject_of

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
CLAIMED = Task.id, Task.attempt, Task.waits, Task.by, Task.request_id, *SUBJECT
ON_CATALOGS = TaskKind.INDEX, TaskKind.VERIFY
WAITING_FOR_PACKAGES = "the packages of the set are being downloaded"


def add(package_id: int, request_id: str | None = None) -> uuid.UUID | None:
    """Queue the download of a package and return its task's id.

    Return None when the package isn't `created` any more, or has a live task.
    """
    # The row is locked so that it can't be deleted before the task refers to it.
    created = (
        select(Package.id, literal(request_id, String), literal(event_log.actor(), JSON))
        .where(Package.id == package_id, Package.status == PackageStatus.CREATED)
        .with_for_update(read=True, key_share=True)
    )
    new = insert_or_ignore(Task).from_select(["package_id", "request_id", "by"], created)
    task_id = _told(new)
    db.session.commit()
    return task_id


def add_indexing(index_id: int, kind: TaskKind = TaskKind.INDEX) -> uuid.UUID | None:
    """Queue the indexing of a catalog, or its verification; return the task's id.

    Nothing is committed. Return None when the index has a live task.
    """
    by = event_log.actor()
    return _told(insert_or_ignore(Task).values(kind=kind, index_id=index_id, by=by))


def add_publishing(profile_id: int) -> bool:
    """Queue the publishing of a profile's active generation, without a commit.

    Return False when that has a live task.
    """
    values = {"kind": TaskKind.PUBLISH, "profile_id": profile_id, "by": event_log.actor()}
    return _told(insert_or_ignore(Task).values(**values)) is not None


def _told(new: Any) -> uuid.UUID | None:
    """Insert a task, and have that told; return its id, None where it was not inserted."""
    row = db.session.execute(new.returning(Task.seq, Task.id)).one_or_none()
    if row is None:
        return None
    task_events.tell_queued([row.seq])
    task_id: uuid.UUID = row.id
    return task_id


def add_downloads(package_ids: Collection[int], request_id: str | None) -> bool:
    """Queue the downloads of those packages that need one and have none, without a commit.

    Return whether any needs one. The caller has locked the packages.
    """
    is_created = Package.id.in_(package_ids), Package.status == PackageStatus.CREATED
    created = db.session.scalars(select(Package.id).where(*is_created).order_by(Package.id))
    more = {"request_id": request_id, "by": event_log.actor()}
    if rows := [{"package_id": one, **more} for one in created]:
        new = insert_or_ignore(Task).values(rows).returning(Task.seq)
        task_events.tell_queued(db.session.scalars(new, execution_options=NO_SYNC).all())
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
    by = event_log.actor()
    end(*is_older, status=TaskStatus.CANCELLED, error=SUPERSEDED, cancelled_by=by)
    waiting = WAITING_FOR_PACKAGES if waits else None
    task = Task(kind=TaskKind.APPLY, request_id=request_id, by=by, waiting=waiting)
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
    task_events.tell_queued([task.seq])
    return task.id


def supersede(profile_id: int) -> None:
    """Cancel the live applies to a profile, since it is about to be switched, without a commit.

    The caller holds the lock of all changes. So an apply that runs has either changed nothing yet,
    or lost its lease before it recorded its change.
    """
    is_live = _is_apply_to(profile_id), Task.status.in_(LIVE)
    by = event_log.actor()
    end(*is_live, status=TaskStatus.CANCELLED, error=SWITCHED, cancelled_by=by)


def _is_apply_to(profile_id: int) -> Any:
    return Task.seq.in_(select(Apply.task_seq).where(Apply.profile_id == profile_id))


def request_cancel(task_id: uuid.UUID) -> bool:
    """Cancel a queued task at once, and ask the worker of a running one to stop it.

    Return False when the task has ended.
    """
    is_same = Task.id == task_id
    first = func.coalesce(Task.cancelled_by, literal(event_log.actor(), JSON))
    marked = update(Task).where(is_same, Task.status.in_(LIVE))
    marked = marked.values(cancel_requested=True, cancelled_by=first)
    is_live = db.session.scalar(marked.returning(Task.seq), execution_options=NO_SYNC) is not None
    if is_live:
        end(is_same, Task.status == TaskStatus.QUEUED, status=TaskStatus.CANCELLED)
    db.session.commit()
    return is_live


def is_any_queued() -> bool:
    """Tell whether any task is queued, be it due or not."""
    with reading() as connection:
        return connection.scalar(_ANY_QUEUED) is not None


def claim(
    holder: str, lease_seconds: float, obstacle: Callable[[], str | None] = lambda: None
) -> Lease | None:
    """Take the first queued task that is due for `holder`; None when there is none.

    Where there is one, `obstacle` is asked first whether, and why, none can be taken at the moment.

    Applies come first, then publishing, then downloads, each oldest first; last come indexing and
    verification, on one catalog at a time.
    """
    # The queue is mostly empty when it is asked: a read doesn't take SQLite's write lock.
    found = db.session.execute(_FIRST_DUE, {"now": utcnow()}).one_or_none()
    db.session.rollback()  # no transaction is open while Nix is asked
    if found is None or obstacle() is not None:
        return None
    if found.kind in ON_CATALOGS:
        _take_turn()
    taken = _take(holder, lease_seconds)
    if taken is None:
        db.session.rollback()
        return None

    lease = _lease(taken, holder)
    db.session.commit()
    return lease


def _take(holder: str, lease_seconds: float) -> AnyRow | None:
    """Take the first task that is due, without a commit; None when there is none."""
    lease = {"now": utcnow(), "holder": holder, "until": soon(lease_seconds)}
    return db.session.execute(_TAKING, lease, execution_options=NO_SYNC).one_or_none()


def _lease(taken: AnyRow, holder: str) -> Lease:
    """Return the lease of a task that `holder` has taken."""
    return Lease(
        seq=taken.seq,
        task_id=taken.id,
        attempt=taken.attempt,
        holder=holder,
        subject=subject_of(taken),
        waits=taken.waits,
        by=taken.by,
        request_id=taken.request_id,
    )


def taken_over(seq: int, attempt: int, holder: str) -> Lease:
    """Return the lease that another process of `holder` has claimed. Raises LeaseLost."""
    held = select(*CLAIMED).where(
        Task.seq == seq,
        Task.attempt == attempt,
        Task.lease_holder == holder,
        Task.status == TaskStatus.RUNNING,
    )
    taken = db.session.execute(held).one_or_none()
    if taken is None:
        raise LeaseLost
    lease = _lease(taken, holder)
    db.session.rollback()
    return lease


def _take_turn() -> None:
    """Lock the first work on a catalog, so that no two workers claim some at the same time.

    Only under PostgreSQL: SQLite has one writer at a time anyway.
    """
    work = select(Task.seq).where(Task.kind.in_(ON_CATALOGS), Task.status.in_(LIVE))
    db.session.execute(work.order_by(Task.seq).limit(1).with_for_update())


def is_other_waiting(kind: TaskKind, seconds: float) -> bool:
    """Tell whether a task that comes before work on catalogs has been due for so many seconds.

    Indexing comes before verification, too.
    """
    before = soon(-seconds)
    later = (kind,) if kind == TaskKind.VERIFY else ON_CATALOGS
    is_old = Task.created_at <= before, or_(Task.lease_until.is_(None), Task.lease_until <= before)
    waiting = select(Task.seq).where(*_IS_DUE, Task.kind.not_in(later), *is_old)
    is_waiting = db.session.scalar(waiting.limit(1), {"now": utcnow()}) is not None
    db.session.rollback()
    return is_waiting


def explain_wait(obstacle: Callable[[], str | None]) -> None:
    """Write to every task that is due why it isn't claimed; None for no reason.

    `obstacle` is asked for that only where there is such a task.
    """
    now = {"now": utcnow()}
    is_any_due = db.session.scalar(_ANY_DUE, now) is not None
    db.session.rollback()
    if not is_any_due:
        return
    reason = obstacle()
    unexplained = *_IS_DUE, Task.waiting.is_distinct_from(reason)
    if db.session.scalar(select(Task.seq).where(*unexplained).limit(1), now) is None:
        db.session.rollback()
        return
    explanation = update(Task).where(*unexplained).values(waiting=reason)
    db.session.execute(explanation, now, execution_options=NO_SYNC)
    db.session.commit()


class Queued(NamedTuple):
    """A download that is due: the number of its task, and its package."""

    seq: int
    name: str
    version: str


def next_downloads(limit: int) -> list[Queued]:
    """Return the first downloads that are due."""
    rows = db.session.execute(_NEXT_DOWNLOADS, {"now": utcnow(), "limit": limit}).all()
    db.session.rollback()
    return [Queued(*row) for row in rows]


def live(task_ids: Collection[str]) -> set[str]:
    """Return those of the tasks that are queued or running."""
    if not task_ids:
        return set()
    these = Task.id.in_(map(uuid.UUID, task_ids))
    return set(map(str, db.session.scalars(select(Task.id).where(these, Task.status.in_(LIVE)))))


# --- Statements: built at import, since building the claim takes 5 ms and executing it 1 ---


def _is_waiting_for_packages() -> Any:
    """Select the applies of which a package is being downloaded; its publishing holds up none."""
    download = aliased(Task)
    needed = (
        select(AppliedPackage.package_id)
        .join(download, download.package_id == AppliedPackage.package_id)
        .join(Package, Package.id == AppliedPackage.package_id)
        .where(AppliedPackage.task_seq == Task.seq, download.status.in_(LIVE))
        .where(Package.status == PackageStatus.CREATED)
        .correlate(Task)
        .exists()
    )
    return and_(Task.kind == TaskKind.APPLY, needed)


def _first_due() -> Select[int, TaskKind]:
    """Select the task to take next."""
    other = aliased(Task)
    is_one_running = (
        select(other.seq)
        .where(other.kind.in_(ON_CATALOGS), other.status == TaskStatus.RUNNING)
        .exists()
    )
    is_on_catalog, is_verification = Task.kind.in_(ON_CATALOGS), Task.kind == TaskKind.VERIFY
    is_apply, is_publishing = Task.kind == TaskKind.APPLY, Task.kind == TaskKind.PUBLISH
    return (
        select(Task.seq, Task.kind)
        .where(*_IS_DUE, or_(~is_on_catalog, ~is_one_running))
        .order_by(is_on_catalog, is_verification, is_apply.desc(), is_publishing.desc(), Task.seq)
        .limit(1)
    )


# Selects the queued tasks whose time has come, but applies that wait for downloads.
_IS_DUE = (
    Task.status == TaskStatus.QUEUED,
    or_(Task.lease_until.is_(None), Task.lease_until <= bindparam("now")),
    ~_is_waiting_for_packages(),
)
_ANY_QUEUED = select(Task.seq).where(Task.status == TaskStatus.QUEUED).limit(1)
_ANY_DUE = select(Task.seq).where(*_IS_DUE).limit(1)
_FIRST_DUE = _first_due()
_NEXT_DOWNLOADS = (
    select(Task.seq, Package.name, Package.version)
    .join(Package, Package.id == Task.package_id)
    .where(*_IS_DUE, Package.status == PackageStatus.CREATED)
    .order_by(Task.seq)
    .limit(bindparam("limit"))
)
_TAKING = (
    update(Task)
    .where(
        Task.seq
        == _FIRST_DUE.with_only_columns(Task.seq)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    .values(
        status=TaskStatus.RUNNING,
        attempt=Task.attempt + 1,
        waiting=None,
        done=0,
        expected=0,
        phase=None,
        started_at=bindparam("now"),
        lease_holder=bindparam("holder"),
        lease_until=bindparam("until"),
    )
    .returning(*CLAIMED)
)
