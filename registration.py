"""Which packages there are: registering and forgetting them, each with its event."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, exists, null, select

import event_log
from event_log import EventType
from models import (
    LIVE,
    AnyRow,
    Package,
    PackageStatus,
    Task,
    columns,
    db,
    insert_or_ignore,
)

SHOWN = *columns(Package), null().label("task_id"), null().label("profiles")
SHORT = Package.id, Package.name, Package.version


def register(name: str, version: str) -> AnyRow | None:
    """Add a package and return its row; None when the version is registered already."""
    values = {"new_name": name, "new_version": version}
    # By the connection: a session takes an INSERT that comes with values for a bulk insert.
    row = db.session.connection().execute(_new(db.engine.dialect.name), values).one_or_none()
    if row is not None:
        _tell(EventType.PACKAGE_REGISTERED, row)
    db.session.commit()
    return row


@cache
def _new(_dialect: str) -> Any:
    """Return the statement, built once: to build it for each request took 130 µs of CPU."""
    new = insert_or_ignore(Package).values(
        name=bindparam("new_name"), version=bindparam("new_version")
    )
    return new.returning(*SHOWN)


def add(versions: Iterable[tuple[str, str]]) -> list[int]:
    """Register what isn't yet, without a commit; return the ids of the new packages."""
    rows = [{"name": name, "version": version} for name, version in versions]
    new = insert_or_ignore(Package).values(rows).returning(*SHORT)
    added = db.session.execute(new).all()
    for row in added:
        _tell(EventType.PACKAGE_REGISTERED, row)
    return [row.id for row in added]


def forget(package_id: int, *conditions: ColumnElement[bool]) -> bool:
    """Delete a package and its tasks; return False while it is activated or downloading.

    So it is where one of the `conditions` does not hold.
    """
    # Under PostgreSQL this waits for a task that is being queued, so that the DELETE sees it.
    db.session.execute(select(Package.id).where(Package.id == package_id).with_for_update())

    has_live_task = exists().where(Task.package_id == Package.id, Task.status.in_(LIVE))
    deletion = delete(Package).where(
        Package.id == package_id,
        Package.status != PackageStatus.ACTIVATED,
        ~has_live_task,
        *conditions,
    )
    deleted = db.session.execute(deletion.returning(*SHORT)).one_or_none()
    if deleted is not None:
        _tell(EventType.PACKAGE_REMOVED, deleted)
    db.session.commit()
    return deleted is not None


def _tell(kind: EventType, package: Any) -> None:
    about = event_log.subject("package", package.id, package.name)
    event_log.add(kind, about, {"version": package.version})
