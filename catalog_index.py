"""The index of what catalogs hold: its rows, which index is current, and what is in it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import String, cast, delete, func, literal, select, update

import nix
import task_queue
from catalog_models import CatalogIndex, IndexedOffer
from fields import NAME_PATTERN
from models import LIVE, AnyRow, Task, db, insert_or_ignore
from task_queue import NO_SYNC

FORMAT = 1  # of the rows: an index of another one is not current
BATCH = 500


@dataclass(frozen=True)
class State:
    """A catalog, and the signature that its index has in its present state."""

    catalog: nix.Catalog
    signature: str


def state(catalog: nix.Catalog, signature: str, allowed: nix.Allowed, sets: Sequence[str]) -> State:
    """Return the state of a catalog with a signature of its own, as it is indexed with these."""
    what = json.dumps([FORMAT, signature, asdict(allowed), sets])
    return State(catalog, hashlib.sha256(what.encode()).hexdigest())


# --- Rows ---


def rows(index_id: int, prefix: str, facts: Sequence[nix.Fact]) -> list[dict[str, Any]]:
    """Return the rows of packages in one set, whose attributes have `prefix`.

    A package for which the catalog throws is no sibling of any name, and has no name in common.
    """
    pnames = {fact.attr: "" if fact.throws else fact.pname for fact in facts}
    wanted = {base for fact in facts for base in nix.bases(fact.attr)} - pnames.keys()
    there = select(IndexedOffer.attr, IndexedOffer.pname).where(
        IndexedOffer.index_id == index_id, IndexedOffer.attr.in_(prefix + base for base in wanted)
    )
    for attr, pname in db.session.execute(there).all() if wanted else ():
        pnames[attr.removeprefix(prefix)] = pname
    return [
        {
            "index_id": index_id,
            "attr": prefix + fact.attr,
            "pname": pnames[fact.attr],
            "name": prefix + _common_name(fact.attr, pnames),
            "spelled": fact.spelled,
            "version": fact.version,
            "reason": fact.reason,
            "description": fact.description,
            "homepage": fact.homepage,
            "license": fact.license,
        }
        for fact in facts
    ]


def _common_name(attr: str, pnames: Mapping[str, str]) -> str:
    """Return the name under which an attribute is found together with its siblings."""
    pname = pnames[attr]
    can_be_asked = "." not in pname and re.match(NAME_PATTERN, pname)
    if can_be_asked and len(pname) > 1 and nix.is_sibling(pname, attr):
        return pname
    for base in nix.bases(attr) if pname else ():
        if pnames.get(base) == pname:
            return base
    return attr


# --- What is known ---


def current(states: Iterable[State]) -> dict[str, int]:
    """Return the id of each catalog's index that is finished, and of its present state."""
    finished = select(CatalogIndex.catalog, CatalogIndex.signature, CatalogIndex.id).where(
        CatalogIndex.finished_at.is_not(None)
    )
    with db.engine.connect() as connection:
        ids = {(catalog, state): id_ for catalog, state, id_ in connection.execute(finished)}
    found = ((each.catalog.name, ids.get((each.catalog.name, each.signature))) for each in states)
    return {name: index_id for name, index_id in found if index_id is not None}


def known(ids: Mapping[str, int], name: str) -> nix.Known:
    """Return what these indexes, by catalog, have of a name, as resolve.nix finds it.

    A catalog is missing if its index can't tell.
    """
    if not ids:
        return {}
    with db.engine.connect() as connection:
        listed = select(CatalogIndex.id, CatalogIndex.todo, CatalogIndex.failures)
        indexes = connection.execute(listed.where(CatalogIndex.id.in_(ids.values()))).all()
        scopes = {row.id: _Scope(name, row.todo, row.failures) for row in indexes}
        mine = _OFFERS.where(IndexedOffer.index_id.in_(ids.values()))
        for row in connection.execute(mine.where(IndexedOffer.attr == name)):
            scopes[row.index_id].direct.append(row)

        pnames = {pname for scope in scopes.values() for pname in scope.pnames}
        follow = IndexedOffer.attr > name, IndexedOffer.attr < f"{name}~"
        wanted = mine.where(*follow, IndexedOffer.pname.in_(pnames)).order_by(IndexedOffer.attr)
        for row in connection.execute(wanted):
            scopes[row.index_id].add_sibling(row)
    return {
        catalog: [_answer(catalog, row) for row in scopes[index_id].offers]
        for catalog, index_id in ids.items()
        if index_id in scopes and scopes[index_id].can_tell
    }


_OFFERS = select(
    IndexedOffer.index_id,
    IndexedOffer.attr,
    IndexedOffer.pname,
    IndexedOffer.spelled,
    IndexedOffer.reason,
    IndexedOffer.description,
)


def _answer(catalog: str, row: AnyRow) -> dict[str, Any]:
    return {
        "catalog": catalog,
        "attr": row.attr,
        "spelled": row.spelled,
        "reason": row.reason,
        "description": row.description,
    }


class _Scope:
    """What an index has of a name: the attribute itself, and its siblings in the same set."""

    def __init__(self, name: str, todo: Sequence[Any], failures: Mapping[str, str]) -> None:
        self.name = name
        self.within, _, self.leaf = name.rpartition(".")
        self.sets = {within for within, _ in todo}
        self.direct: list[AnyRow] = []
        self.siblings: list[AnyRow] = []
        self._is_whole = (
            self.within in self.sets
            and self.within not in failures
            and not any(attr == name or nix.is_sibling(name, attr) for attr in failures)
        )

    @property
    def can_tell(self) -> bool:
        """Whether this is all that an evaluation would find.

        Not so for an attribute that throws, and where an attribute with a dot has the same name.
        """
        is_clear = not self.direct or (len(self.direct) == 1 and self.direct[0].pname != "")
        return self._is_whole and is_clear

    @property
    def pnames(self) -> set[str]:
        """The names in derivations that siblings may have."""
        return {self.leaf, *(row.pname for row in self.direct)}

    @property
    def offers(self) -> list[AnyRow]:
        """The rows in the order of preference."""
        return [*self.direct, *self.siblings]

    def add_sibling(self, row: AnyRow) -> None:
        """Add a row if it is of a sibling."""
        above = row.attr.rpartition(".")[0]
        within = above if above in self.sets else ""
        is_related = within == self.within and row.pname in self.pnames
        if is_related and nix.is_sibling(self.name, row.attr):
            self.siblings.append(row)


# --- Indexes ---


def newest(catalogs: Iterable[nix.Catalog]) -> dict[str, int]:
    """Return the id of each catalog's newest finished index, be it current or not."""
    newest = func.max(CatalogIndex.id).label("newest")
    finished = select(CatalogIndex.catalog, newest).where(CatalogIndex.finished_at.is_not(None))
    with db.engine.connect() as connection:
        rows = connection.execute(finished.group_by(CatalogIndex.catalog)).all()
    found = {row.catalog: row.newest for row in rows}
    return {one.name: found[one.name] for one in catalogs if one.name in found}


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
    mine = select(IndexedOffer.id).where(IndexedOffer.index_id == index_id).limit(BATCH)
    deletion = delete(IndexedOffer).where(IndexedOffer.id.in_(mine.scalar_subquery()))
    while db.session.execute(deletion.returning(IndexedOffer.id), execution_options=NO_SYNC).all():
        db.session.commit()
    db.session.execute(
        delete(CatalogIndex).where(CatalogIndex.id == index_id), execution_options=NO_SYNC
    )
    db.session.commit()
