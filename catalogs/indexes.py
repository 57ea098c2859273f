"""The indexes of catalogs: which is current, how each stands, what is to be made and deleted."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import String, cast, delete, func, literal, select, update
from sqlalchemy.orm import aliased

import nix
import task_queue
from catalogs import offers
from catalogs.models import CatalogIndex, IndexedOffer, IndexStatus
from database import reading
from models import LIVE, NO_SYNC, AnyRow, Task, TaskKind, TaskStatus, db, insert_or_ignore

FORMAT = 2  # of the rows: an index of another one is not current
ENDED = {
    TaskStatus.FAILED: IndexStatus.FAILED,
    TaskStatus.CANCELLED: IndexStatus.CANCELLED,
}


@dataclass(frozen=True)
class State:
    """A catalog, and the signature that its index has in its present state."""

    catalog: nix.Catalog
    signature: str


def state(catalog: nix.Catalog, signature: str, allowed: nix.Allowed, sets: Sequence[str]) -> State:
    """Return the state of a catalog with a signature of its own, as it is indexed with these."""
    what = json.dumps([FORMAT, signature, asdict(allowed), sets])
    return State(catalog, hashlib.sha256(what.encode()).hexdigest())


_FINISHED = select(CatalogIndex.catalog, CatalogIndex.signature, CatalogIndex.id).where(
    CatalogIndex.finished_at.is_not(None)
)


def current(states: Iterable[State]) -> dict[str, int]:
    """Return the id of each catalog's index that is finished, and of its present state."""
    with reading() as connection:
        ids = {(catalog, state): id_ for catalog, state, id_ in connection.execute(_FINISHED)}
    found = ((each.catalog.name, ids.get((each.catalog.name, each.signature))) for each in states)
    return {name: index_id for name, index_id in found if index_id is not None}


def newest(catalogs: Iterable[nix.Catalog]) -> dict[str, int]:
    """Return the id of each catalog's newest finished index, be it current or not."""
    newest = func.max(CatalogIndex.id).label("newest")
    finished = select(CatalogIndex.catalog, newest).where(CatalogIndex.finished_at.is_not(None))
    with reading() as connection:
        rows = connection.execute(finished.group_by(CatalogIndex.catalog)).all()
    found = {row.catalog: row.newest for row in rows}
    return {one.name: found[one.name] for one in catalogs if one.name in found}


@dataclass(frozen=True)
class Standing:
    """How the index of a catalog stands, and when the one that serves was finished.

    `task_id` is that of the latest task for the catalog's present state; `progress` is how far it
    is while it is live, and `error` why it failed. `verification` and what follows it tell of the
    index that serves.
    """

    status: IndexStatus = IndexStatus.NONE
    indexed_at: datetime | None = None
    task_id: uuid.UUID | None = None
    packages: int | None = None
    progress: nix.Progress | None = None
    error: str | None = None
    verification: IndexStatus = IndexStatus.NONE
    verified: int | None = None
    verified_at: datetime | None = None
    verification_task_id: uuid.UUID | None = None


def standings(states: Sequence[State]) -> dict[str, Standing]:
    """Return how the index of each catalog stands."""
    serving = newest(each.catalog for each in states)
    with reading() as connection:
        rows: Sequence[AnyRow] = connection.execute(_WITH_TASKS).all()
        by_state = {(row.catalog, row.signature): row for row in rows}
        by_id = {row.id: row for row in rows}
        packages = {row.index_id: row.packages for row in connection.execute(_PACKAGES)}

    found = {}
    for each in states:
        name = each.catalog.name
        present = by_state.get((name, each.signature))
        shown = by_id.get(serving.get(name, 0))
        if present and present.finished_at:
            shown = present
        status = _status(present, shown)
        found[name] = Standing(
            status=status,
            indexed_at=shown.finished_at if shown else None,
            task_id=present.task_id if present else None,
            packages=packages.get(shown.id, 0) if shown else None,
            progress=_progress(present) if status is IndexStatus.IN_PROGRESS else None,
            error=present.error_message if present else None,
            **_verification(shown),
        )
    return found


def _verification(index: AnyRow | None) -> dict[str, Any]:
    """Return how the verification of an index stands."""
    if index is None:
        return {}
    if index.verifying in LIVE:
        status = IndexStatus.IN_PROGRESS
    elif index.verified_at:
        status = IndexStatus.CURRENT
    else:
        status = ENDED.get(index.verifying, IndexStatus.NONE)
    return {
        "verification": status,
        "verified": index.verified,
        "verified_at": index.verified_at,
        "verification_task_id": index.verification_task_id,
    }


def _progress(task: AnyRow | None) -> nix.Progress | None:
    return nix.Progress(task.done, task.expected, task.phase) if task else None


def _status(present: AnyRow | None, shown: AnyRow | None) -> IndexStatus:
    """Return the status by the row of the catalog's present state, and the one that serves."""
    if present and present.finished_at:
        return IndexStatus.CURRENT
    if present and present.status in LIVE:
        return IndexStatus.IN_PROGRESS
    if present and present.status in ENDED:
        return ENDED[present.status]
    return IndexStatus.STALE if shown else IndexStatus.NONE


def _latest(kind: TaskKind) -> Any:
    """Return the number of the latest task of a kind that an index has."""
    task = aliased(Task)
    of_index = task.index_id == CatalogIndex.id, task.kind == kind
    return select(func.max(task.seq)).where(*of_index).correlate(CatalogIndex).scalar_subquery()


_Verification = aliased(Task)
_WITH_TASKS = select(
    CatalogIndex.id,
    CatalogIndex.catalog,
    CatalogIndex.signature,
    CatalogIndex.finished_at,
    Task.id.label("task_id"),
    Task.status,
    Task.done,
    Task.expected,
    Task.phase,
    Task.error_message,
    CatalogIndex.verified,
    CatalogIndex.verified_at,
    _Verification.id.label("verification_task_id"),
    _Verification.status.label("verifying"),
).select_from(CatalogIndex)
_WITH_TASKS = _WITH_TASKS.outerjoin(Task, Task.seq == _latest(TaskKind.INDEX))
_WITH_TASKS = _WITH_TASKS.outerjoin(_Verification, _Verification.seq == _latest(TaskKind.VERIFY))
_PACKAGES = select(IndexedOffer.index_id, func.count().label("packages")).group_by(
    IndexedOffer.index_id
)


def schedule(states: Iterable[State]) -> list[str]:
    """Queue the indexing of each catalog whose present state has no index; return their names."""
    rows = db.session.execute(select(CatalogIndex.catalog, CatalogIndex.signature)).all()
    there = set(map(tuple, rows))
    db.session.rollback()
    missing = (each for each in states if (each.catalog.name, each.signature) not in there)
    return [each.catalog.name for each in missing if _queue_new(each)]


def schedule_again(state: State) -> bool:
    """Queue the indexing of a catalog, finished, failed or cancelled before.

    A finished index serves searches until the new one is finished. Return False if a task is live.
    """
    is_same = (
        CatalogIndex.catalog == state.catalog.name,
        CatalogIndex.signature == state.signature,
    )
    index_id = db.session.scalar(
        select(CatalogIndex.id).where(*is_same, CatalogIndex.finished_at.is_(None))
    )
    if index_id is None:
        another = literal("outdated on request: ") + cast(CatalogIndex.id, String)
        outdated = update(CatalogIndex).where(*is_same).values(signature=another)
        db.session.execute(outdated, execution_options=NO_SYNC)
        return _queue_new(state)
    task_id = task_queue.add_indexing(index_id)
    db.session.commit()
    return task_id is not None


def schedule_verifications(states: Iterable[State]) -> bool:
    """Queue the verification of each current index that had none; return whether there is one."""
    indexes = current(states).values()
    tasks = select(Task.seq).where(Task.index_id == CatalogIndex.id, Task.kind == TaskKind.VERIFY)
    mine = CatalogIndex.id.in_(indexes), CatalogIndex.verified_at.is_(None), ~tasks.exists()
    ids = db.session.scalars(select(CatalogIndex.id).where(*mine)).all()
    db.session.rollback()
    queued = [verify_again(index_id) for index_id in ids]
    return any(queued)


def verify_again(index_id: int) -> bool:
    """Queue the verification of an index, from where it ended; return False if a task is live."""
    task_id = task_queue.add_indexing(index_id, TaskKind.VERIFY)
    db.session.commit()
    return task_id is not None


def _queue_new(state: State) -> bool:
    """Add an index and its task; return False where another process was faster."""
    new = insert_or_ignore(CatalogIndex).values(
        catalog=state.catalog.name, signature=state.signature
    )
    index_id = db.session.scalar(new.returning(CatalogIndex.id))
    if index_id is not None:
        task_queue.add_indexing(index_id)
    db.session.commit()
    return index_id is not None


def prune(states: Sequence[State]) -> int:
    """Delete the indexes that nothing needs any more, a batch at a time; return their number.

    Needed are those of a catalog's present state, and the newest finished one of each catalog.
    """
    present = {(each.catalog.name, each.signature) for each in states}
    serving = newest(each.catalog for each in states).values()
    is_live = select(Task.seq).where(Task.index_id == CatalogIndex.id, Task.status.in_(LIVE))
    listed = select(CatalogIndex.id, CatalogIndex.catalog, CatalogIndex.signature)
    rows = db.session.execute(listed.where(~is_live.exists())).all()
    db.session.rollback()
    gone = [
        row.id
        for row in rows
        if row.id not in serving and (row.catalog, row.signature) not in present
    ]
    for index_id in gone:
        _delete(index_id)
    return len(gone)


def _delete(index_id: int) -> None:
    """Delete an index; each batch is a transaction, so that other writers get their turn."""
    while offers.remove_batch(index_id):
        db.session.commit()
    # Another process may be at another batch, and then deletes the index itself.
    has_rows = select(IndexedOffer.id).where(IndexedOffer.index_id == CatalogIndex.id).exists()
    empty = delete(CatalogIndex).where(CatalogIndex.id == index_id, ~has_rows)
    db.session.execute(empty, execution_options=NO_SYNC)
    db.session.commit()
