"""The rows of indexes: writing and deleting them, and reading what they have of a name.

All indexes share one row for each name. It is deleted with the last offer of that name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Update, bindparam, delete, insert, select, update

import nix
from catalogs.models import IMPOSSIBLE, CatalogIndex, IndexedName, IndexedOffer
from database import reading
from fields import NAME_PATTERN
from models import NO_SYNC, AnyRow, db, upsert

BATCH = 500
SEPARATOR = "\n"  # no description holds one
MESSAGE_LENGTH = 500
# The ORM would otherwise leave null out, and so need a statement for each set of other columns.
ONE_STATEMENT = {"render_nulls": True}

# --- Writing ---


def made_of(index_id: int, within: str, facts: Sequence[nix.Fact]) -> list[dict[str, Any]]:
    """Return the rows of packages in one set.

    A package whose attribute throws is a sibling of nothing, and has its attribute as its name.
    """
    prefix = nix.joined(within, "")
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


def add(offers: Sequence[dict[str, Any]]) -> None:
    """Add rows, and what they say of their names, without a commit."""
    if offers:
        ids = _named(offers)
        new = [{**offer, "name_id": ids[offer["name"]]} for offer in offers]
        for offer in new:
            del offer["name"]
        db.session.execute(insert(IndexedOffer), new, execution_options=ONE_STATEMENT)


def _named(offers: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Add the names and descriptions of offers to those there are; return the ids of the names.

    Names are locked in their order, which `remove_batch` follows, too.
    """
    said: dict[str, set[str]] = {offer["name"]: set() for offer in offers}
    for offer in offers:
        said[offer["name"]].add((offer["description"] or "").lower())
    rows = [
        {"name": name, "lower": name.lower(), "descriptions": _joined(said[name])}
        for name in sorted(said)
    ]
    new = upsert(IndexedName)
    added = new.on_conflict_do_update(index_elements=["name"], set_={"name": new.excluded.name})
    there = added.returning(IndexedName.id, IndexedName.name, IndexedName.descriptions)
    names = db.session.execute(there, rows).all()
    present = {one.id: set(one.descriptions.split(SEPARATOR)) for one in names}
    _describe(names, {one.id: present[one.id] | said[one.name] for one in names})
    return {one.name: one.id for one in names}


def refused(index_id: int, attr: str, error: nix.NotProvided) -> Update:
    """Return the statement that notes why a version that an index offers can't be had."""
    offered = IndexedOffer.index_id == index_id, IndexedOffer.attr == attr
    return update(IndexedOffer).where(*offered, IndexedOffer.reason.is_(None)).values(why(error))


def why(error: nix.NotProvided) -> dict[str, str]:
    """Return what an offer tells of the error that a download of it would end with."""
    reason = error.reason if isinstance(error, nix.Refused) else IMPOSSIBLE
    return {"reason": reason, "message": short(error, MESSAGE_LENGTH)}


def short(error: nix.NixError, length: int) -> str:
    """Return an error in one line, cut at `length`."""
    return " ".join(str(error).split())[:length]


def note(outcomes: Mapping[int, nix.Derivation | nix.NotProvided]) -> None:
    """Note of offers, by their ids, which derivations they have or why none, without a commit."""
    rows = [{"id": id_, **_outcome(one)} for id_, one in outcomes.items()]
    db.session.execute(update(IndexedOffer), rows)


def _outcome(found: nix.Derivation | nix.NotProvided) -> dict[str, str | None]:
    row = dict.fromkeys(("reason", "message", "drv_path", "store_path", "outputs"))
    if isinstance(found, nix.NotProvided):
        return {**row, **why(found)}
    outputs = " ".join(found.outputs)
    paths = {"drv_path": found.drv_path, "store_path": found.store_path}
    return {**row, **paths, "outputs": outputs}


def remove_batch(index_id: int) -> bool:
    """Delete some rows of an index, without a commit; return whether there were any."""
    some = select(IndexedOffer.id).where(IndexedOffer.index_id == index_id).limit(BATCH)
    deleted = delete(IndexedOffer).where(IndexedOffer.id.in_(some.scalar_subquery()))
    gone = set(
        db.session.scalars(deleted.returning(IndexedOffer.name_id), execution_options=NO_SYNC)
    )
    if not gone:
        return False
    listed = select(IndexedName.id, IndexedName.descriptions).where(IndexedName.id.in_(gone))
    names = db.session.execute(listed.order_by(IndexedName.name).with_for_update()).all()
    left: dict[int, set[str]] = {}
    others = select(IndexedOffer.name_id, IndexedOffer.description).distinct()
    for name_id, description in db.session.execute(others.where(IndexedOffer.name_id.in_(gone))):
        left.setdefault(name_id, set()).add((description or "").lower())
    _describe([one for one in names if one.id in left], left)
    unused = delete(IndexedName).where(IndexedName.id.in_(gone - left.keys()))
    db.session.execute(unused, execution_options=NO_SYNC)
    return True


def _describe(names: Iterable[AnyRow], wanted: Mapping[int, set[str]]) -> None:
    """Write the descriptions of names where they are not those that are wanted, by id."""
    texts = ((one, _joined(wanted[one.id])) for one in names)
    changed = [
        {"id": one.id, "descriptions": text} for one, text in texts if text != one.descriptions
    ]
    if changed:
        db.session.execute(update(IndexedName), changed)


def _joined(descriptions: set[str]) -> str:
    return SEPARATOR.join(sorted(descriptions - {""}))


# --- Reading ---


def known(ids: Mapping[str, int], name: str) -> nix.Known:
    """Return what these indexes, by catalog, have of a name, as resolve.nix finds it.

    A catalog is missing if its index can't tell.
    """
    if not ids:
        return {}
    asked: dict[str, Any] = {"ids": list(ids.values()), "name": name}
    with reading() as connection:
        indexes = connection.execute(_INDEXES, asked).all()
        entries = {row.id: _Entry(name, row.todo, row.failures) for row in indexes}
        since = {row.id: row.created_at for row in indexes}
        for row in connection.execute(_DIRECT, asked):
            entries[row.index_id].direct.append(row)

        pnames = {pname for entry in entries.values() for pname in entry.pnames}
        more = {"before": f"{name}~", "pnames": list(pnames)}
        for row in connection.execute(_FOLLOWING, asked | more):
            entries[row.index_id].add_sibling(row)
    return {
        catalog: [_answer(catalog, since[index_id], row) for row in entries[index_id].offers]
        for catalog, index_id in ids.items()
        if index_id in entries and entries[index_id].can_tell
    }


# Built at import, since building takes longer than executing.
_IDS: Any = bindparam("ids", expanding=True)
_INDEXES = select(
    CatalogIndex.id, CatalogIndex.todo, CatalogIndex.failures, CatalogIndex.created_at
).where(CatalogIndex.id.in_(_IDS))
_OFFERS = select(
    IndexedOffer.index_id,
    IndexedOffer.attr,
    IndexedOffer.pname,
    IndexedOffer.spelled,
    IndexedOffer.reason,
    IndexedOffer.description,
    IndexedOffer.message,
    IndexedOffer.drv_path,
    IndexedOffer.outputs,
).where(IndexedOffer.index_id.in_(_IDS))
_DIRECT = _OFFERS.where(IndexedOffer.attr == bindparam("name"))
_FOLLOWING = _OFFERS.where(
    IndexedOffer.attr > bindparam("name"),
    IndexedOffer.attr < bindparam("before"),
    IndexedOffer.pname.in_(bindparam("pnames", expanding=True)),
).order_by(IndexedOffer.attr)


def _answer(catalog: str, since: datetime, row: AnyRow) -> dict[str, Any]:
    return {
        "catalog": catalog,
        "attr": row.attr,
        "spelled": row.spelled,
        "reason": row.reason,
        "description": row.description,
        "message": row.message,
        "pname": row.pname,
        "drv_path": row.drv_path,
        "outputs": (row.outputs or "").split(),
        "since": since,
    }


class _Entry:
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
