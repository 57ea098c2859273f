"""Searching the catalogs for a text: names first, then descriptions.

The database ranks and pages. The names of catalogs without an index are given to it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    table,
    tuple_,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute

import nix
from catalogs.models import BYTES, CatalogIndex, IndexedName, IndexedOffer
from catalogs.state import Catalogs
from database import reading
from fields import NAME_PATTERN
from models import AnyRow, db

SHORT = 3  # what is shorter is looked for at the beginning of names only
COUNTED = 1000  # names at most: to count all takes longer than to find the best
LAST = "\U0010ffff"  # sorts after whatever else a name may go on with

# SQLite's index of the texts by groups of three letters.
TEXTS = table("name_texts", column("rowid"), column("name_texts"))

Conditions = list[ColumnElement[bool]]

_NAMES: Any = select(IndexedName.name, IndexedName.lower)


@dataclass(frozen=True)
class Hit:
    """A name that was found, its newest version that may be had, and what it is."""

    name: str
    version: str | None = None
    description: str | None = None


class SearchText:
    """A text that is looked for: what fits it, and how well."""

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        self.given = text.strip()
        self.text = " ".join(words)
        self.short = [word for word in words if len(word) < SHORT]
        self.long = [word for word in words if len(word) >= SHORT]

    def is_in(self, name: str) -> bool:
        """Tell whether a name fits, whatever its description."""
        lower = name.lower()
        return self.text in lower if self.long else all(map(lower.startswith, self.short))

    def place(
        self, name: ColumnElement[str], lower: ColumnElement[str]
    ) -> tuple[ColumnElement[Any], ...]:
        """Return what names that fit are sorted by: rank, length, and the name.

        The ranks: 0 for the text itself, 1 for what begins so, 2 for what holds it.
        """
        ranks = [(lower == self.text, 0)]
        if self.long:
            ranks.append((_begins(lower, self.text), 1))
        rank = case(*ranks, else_=2)
        return rank, func.length(name), name

    @property
    def begun(self) -> ColumnElement[bool]:
        """The condition that a name begins with the whole text: such names come before others."""
        return _begins(IndexedName.lower, self.text)

    @property
    def named(self) -> ColumnElement[bool]:
        """The condition that a name fits."""
        if not self.long:
            return and_(*self._beginnings)
        if _is_sqlite():
            return IndexedName.id.in_(_matching(self._name_query))
        return IndexedName.lower.contains(self.text, autoescape=True)

    def described(self, *, by_reading: bool) -> ColumnElement[bool]:
        """Return the condition that what is said of a name fits, which needs a long word.

        That takes no index with `by_reading`: in the order of names, the first that fit are soon
        found where many do, and the index of SQLite would list all of them.
        """
        if _is_sqlite() and not by_reading:
            return and_(IndexedName.id.in_(_matching(self._words_query)), *self._beginnings)
        words = (IndexedName.descriptions.contains(one, autoescape=True) for one in self.long)
        return and_(*words, *self._beginnings)

    def fitting(self) -> Any:
        """Select the names that fit in any way, in no order."""
        if not self.long:
            return _NAMES.where(self.named)
        if _is_sqlite() and not self.short:  # the first are told before all are found
            found: Any = _matching(f"({self._name_query}) OR ({self._words_query})")
            both = found.join(IndexedName, IndexedName.id == TEXTS.c.rowid)
            return both.with_only_columns(IndexedName.name, IndexedName.lower)
        return _NAMES.where(or_(self.named, self.described(by_reading=False)))

    @property
    def _name_query(self) -> str:
        return f"lower : {_quoted(self.text)}"

    @property
    def _words_query(self) -> str:
        return " AND ".join(f"descriptions : {_quoted(word)}" for word in self.long)

    @property
    def _beginnings(self) -> Conditions:
        return [_begins(IndexedName.lower, word) for word in self.short]


def _begins(
    lower: ColumnElement[str] | InstrumentedAttribute[str], text: str
) -> ColumnElement[bool]:
    return and_(lower >= text, lower < text + LAST)


def _is_sqlite() -> bool:
    return db.engine.dialect.name == "sqlite"


def _matching(query: str) -> Select[Any]:
    """Select what SQLite's full-text search finds."""
    return select(TEXTS.c.rowid).where(TEXTS.c.name_texts.op("MATCH")(query))


def _quoted(text: str) -> str:
    """Return a text as a string of SQLite's full-text search, in which nothing is syntax."""
    return '"' + text.replace('"', '""') + '"'


def search(
    catalogs: Catalogs, text: str, *, limit: int, after: str | None
) -> tuple[list[Hit], int, bool]:
    """Return the names that fit a text, the best first, from the one behind `after` on.

    Also return how many there are, COUNTED at most, and whether more follow. Catalogs without an
    index are searched by their names alone. Raises Busy if it takes too long to read these.
    """
    wanted = SearchText(text)
    in_order = catalogs.in_order()
    ids = catalogs.newest_indexes(in_order)
    others = {
        name
        for catalog in in_order
        if catalog.name not in ids
        for name in catalogs.names(catalog)
        if wanted.is_in(name) and re.match(NAME_PATTERN, name)
    }
    page, total = _found(ids, wanted, others, limit=limit + 1, after=after)
    return _hits(ids, page[:limit], wanted), total, len(page) > limit


# --- The database ---


def _found(
    ids: Mapping[str, int], wanted: SearchText, others: set[str], *, limit: int, after: str | None
) -> tuple[list[str], int]:
    """Return a page of the names that fit, and how many fit in all, COUNTED at most.

    What only descriptions fit follows in the order of the names, so that a database may read as few
    of them as a page has.
    """
    with reading() as connection:
        served = _served(ids, connection)
        attr = select(IndexedOffer.attr).where(
            IndexedOffer.index_id.in_(ids.values()), IndexedOffer.attr == wanted.given
        )
        others = others | set(connection.scalars(attr.limit(1)))
        total = min(connection.scalars(_count(wanted, served, others)).one(), COUNTED)
        is_behind = after is not None and wanted.long != [] and not wanted.is_in(after)
        is_common = total == COUNTED
        page: list[str] = []
        if is_common and not is_behind:
            begun = {name for name in others if name.lower().startswith(wanted.text)}
            first = _named(wanted.begun, wanted, served, begun, after)
            page = list(connection.scalars(first.limit(limit)))
        if len(page) < limit and not is_behind:
            named = _named(wanted.named, wanted, served, others, after)
            page = list(connection.scalars(named.limit(limit)))
        if wanted.long and len(page) < limit:
            described = _described(wanted, served, after if is_behind else "", is_common)
            page += connection.scalars(described.limit(limit - len(page)))
    return page, total


def _served(ids: Mapping[str, int], connection: Connection) -> Conditions:
    """Return the conditions that a name is in these indexes: none if there are no others.

    To look for each name takes as long as to find them.
    """
    others = select(CatalogIndex.id).where(CatalogIndex.id.not_in(ids.values())).limit(1)
    if connection.scalar(others) is None:
        return []
    mine = IndexedOffer.name_id == IndexedName.id, IndexedOffer.index_id.in_(ids.values())
    return [select(IndexedOffer.id).where(*mine).exists()]


def _count(wanted: SearchText, served: Conditions, others: set[str]) -> Select[Any]:
    """Select how many names fit: all others, and of those of indexes COUNTED at most."""
    found: Any = wanted.fitting().where(*served).limit(COUNTED)
    if others:
        found = union_all(select(found.subquery()), _missing(others, served))
    return select(func.count()).select_from(found.subquery())


def _named(
    fits: ColumnElement[bool],
    wanted: SearchText,
    served: Conditions,
    others: set[str],
    after: str | None,
) -> Select[Any]:
    """Select the names that fit, others than those of indexes too, in their order."""
    names: Any = _NAMES.where(fits, *served)
    if others:
        names = union_all(names, _missing(others, served))
    names = names.subquery()
    place = wanted.place(names.c.name, names.c.lower)
    page = select(names.c.name).order_by(*place)
    if after is None:
        return page
    last = wanted.place(literal(after, BYTES), literal(after.lower(), BYTES))
    return page.where(tuple_(*place) > tuple_(*last))


def _described(
    wanted: SearchText, served: Conditions, after: str | None, is_common: bool
) -> Select[Any]:
    """Select the names, from the one behind `after` on, of which only the descriptions fit."""
    is_named = IndexedName.lower.contains(wanted.text, autoescape=True)
    fits = wanted.described(by_reading=is_common), ~is_named, IndexedName.name > after, *served
    return select(IndexedName.name).where(*fits).order_by(IndexedName.name)


def _missing(others: set[str], served: Conditions) -> Select[Any]:
    """Select those of other names that no index has."""
    other = _table_of(others)
    is_there = select(IndexedName.id).where(IndexedName.name == other, *served).exists()
    return select(other, func.lower(other).label("lower")).where(~is_there)


def _table_of(names: set[str]) -> ColumnElement[str]:
    """Return the column of a table of these names."""
    elements = func.json_each if _is_sqlite() else func.json_array_elements_text
    value = elements(literal(sorted(names), JSON)).table_valued("value").c.value
    return cast(value, BYTES).label("name")


def _hits(ids: Mapping[str, int], page: Sequence[str], wanted: SearchText) -> list[Hit]:
    """Return the names of a page with what the indexes know of them.

    The names are read first: joined with them, SQLite reads all rows of an index unless it was told
    how many there are.
    """
    rows: dict[str, list[AnyRow]] = {name: [] for name in page}
    mine = _ROWS.where(IndexedOffer.index_id.in_(ids.values()))
    named = select(IndexedName.id, IndexedName.name).where(IndexedName.name.in_(page))
    with reading() as connection:
        names = {row.id: row.name for row in connection.execute(named)}
        for row in connection.execute(mine.where(IndexedOffer.name_id.in_(names))):
            rows[names[row.name_id]].append(row)
        if wanted.given in rows:
            found = connection.execute(mine.where(IndexedOffer.attr == wanted.given)).all()
            others = (row for row in found if names.get(row.name_id) != wanted.given)
            rows[wanted.given].extend(others)
    return [_hit(name, found) for name, found in rows.items()]


_ROWS = select(
    IndexedOffer.name_id,
    IndexedOffer.spelled,
    IndexedOffer.version,
    IndexedOffer.reason,
    IndexedOffer.description,
)


def _hit(name: str, rows: Sequence[AnyRow]) -> Hit:
    """Return a name with its newest version that may be had, a release where there is one."""
    free = [row for row in rows if row.reason is None]
    free.sort(key=lambda row: nix.order(row.spelled), reverse=True)
    releases = (row for row in free if not nix.is_prerelease(row.spelled))
    best = next(releases, free[0] if free else None)
    described = (row.description for row in (best, *rows) if row and row.description)
    return Hit(name, best.version if best else None, next(described, None))
