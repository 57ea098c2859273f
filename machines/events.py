"""The events of machines: that one failed, fell silent, or was removed."""

from collections.abc import Sequence
from typing import Any

from flask import current_app
from sqlalchemy import delete, select, update

import event_log
from event_log import EventType
from machines.models import Machine, ReportedState
from models import NO_SYNC, AnyRow, db, soon
from profiles.models import Profile

STATE = Machine.generation, Machine.store_path, Machine.error
TOLD = Machine.id, Machine.name, Machine.profile_id, *STATE


def locked(name: str) -> AnyRow | None:
    """Return what a machine reported last; nobody changes it until the commit."""
    as_it_is = update(Machine).where(Machine.name == name).values(place=Machine.place)
    shown = as_it_is.returning(Machine.reported, *STATE)
    return db.session.execute(shown, execution_options=NO_SYNC).one_or_none()


def tell_failure(machine_id: int, before: AnyRow | None) -> None:
    """Have it told that a machine has reported a failure, unless it said the same `before`."""
    row = db.session.execute(select(*TOLD).where(Machine.id == machine_id)).one()
    now = (ReportedState.FAILED, row.generation, row.store_path, row.error)
    if before is None or tuple(before) != now:
        _tell(EventType.MACHINE_FAILED, [row])


def tell_silence() -> int:
    """Have it told, once, of each machine that has fallen silent; return how many there are."""
    heard_before = soon(-current_app.config["MACHINE_SILENT_SECONDS"])
    is_untold = Machine.seen_at < heard_before, Machine.is_silence_told.is_(False)
    if db.session.scalar(select(Machine.id).where(*is_untold).limit(1)) is None:
        db.session.rollback()
        return 0
    telling = update(Machine).where(*is_untold).values(is_silence_told=True).returning(*TOLD)
    rows = db.session.execute(telling, execution_options=NO_SYNC).all()
    _tell(EventType.MACHINE_SILENT, rows)
    db.session.commit()
    return len(rows)


def remove(*where: Any) -> int:
    """Delete machines, without a commit; return how many they were."""
    removing = delete(Machine).where(*where).returning(*TOLD)
    rows = db.session.execute(removing, execution_options=NO_SYNC).all()
    _tell(EventType.MACHINE_REMOVED, rows)
    return len(rows)


def _tell(kind: EventType, machines: Sequence[AnyRow]) -> None:
    ids = {row.profile_id for row in machines}
    named = select(Profile.id, Profile.name).where(Profile.id.in_(ids))
    profiles = {row.id: row.name for row in db.session.execute(named)} if ids else {}
    for row in sorted(machines):
        data = {
            "profile": profiles[row.profile_id],
            "generation": row.generation,
            "store_path": row.store_path,
            "error": row.error,
        }
        event_log.add(kind, event_log.subject("machine", row.id, row.name), data)
