"""The events of tasks: that they were queued, and how they ended."""

from collections.abc import Collection

from sqlalchemy import bindparam, func, select

import event_log
from catalogs.models import CatalogIndex
from event_log import EventType
from models import AnyRow, Package, Task, TaskStatus, db
from profiles.models import Apply, Profile

MESSAGE_LENGTH = 600
ENDS = {
    TaskStatus.SUCCEEDED: EventType.TASK_SUCCEEDED,
    TaskStatus.FAILED: EventType.TASK_FAILED,
    TaskStatus.CANCELLED: EventType.TASK_CANCELLED,
}
TOLD = (
    select(
        *(Task.seq, Task.id, Task.kind, Task.attempt, Task.by, Task.cancelled_by, Task.request_id),
        *(Task.error_code, Task.error_message, Task.error_hint, Task.package_id),
        *(Package.name, Package.version, CatalogIndex.catalog, Profile.name.label("profile")),
    )
    .outerjoin(Package, Package.id == Task.package_id)
    .outerjoin(CatalogIndex, CatalogIndex.id == Task.index_id)
    .outerjoin(Apply, Apply.task_seq == Task.seq)
    .outerjoin(Profile, Profile.id == func.coalesce(Apply.profile_id, Task.profile_id))
    .where(Task.seq.in_(bindparam("seqs", expanding=True)))
    .order_by(Task.seq)
)


def tell_queued(seqs: Collection[int]) -> None:
    """Have it told that these tasks were queued; the rows of what they are about are there."""
    for task in _tasks(seqs):
        _tell(EventType.TASK_QUEUED, task, task.by)


def tell_ended(seqs: Collection[int], status: TaskStatus) -> None:
    """Have it told that these tasks have ended."""
    for task in _tasks(seqs):
        _tell(ENDS[status], task, task.cancelled_by or task.by)


def _tasks(seqs: Collection[int]) -> list[AnyRow]:
    return list(db.session.execute(TOLD, {"seqs": list(seqs)})) if seqs else []


def _tell(kind: EventType, task: AnyRow, by: event_log.Actor | None) -> None:
    is_download = task.package_id is not None
    package = {"id": task.package_id, "name": task.name, "version": task.version}
    name = f"{task.name} {task.version}" if is_download else task.catalog or task.profile
    error = {
        "code": task.error_code,
        "message": (task.error_message or "")[:MESSAGE_LENGTH],
        "hint": task.error_hint,
    }
    data = {
        "kind": task.kind.value,
        "package": package if is_download else None,
        "profile": task.profile,
        "catalog": task.catalog,
        "attempt": task.attempt,
        "error": error if task.error_code else None,
    }
    about = event_log.subject("task", task.id, name)
    by = by or event_log.service()
    event_log.add(kind, about, data, by=by, request_id=task.request_id)
