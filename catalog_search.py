"""Searching the catalogs for a text: names first, then descriptions.

The database ranks, counts and pages. The names of catalogs without an index are given to it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    table,
    true,
    tuple_,
    union_all,
)

import nix
from catalog_models import BYTES, CatalogIndex, IndexedName, IndexedOffer
from catalog_state import Catalogs
from fields import NAME_PATTERN
from models import AnyRow, db

SHORT = 3  # what is shorter is looked for at the beginning of names only
LAST = "\U0010ffff"  # sorts after whatever else a name may go on with

# SQLite's index of the texts by groups of three letters.
TEXTS = table("name_texts", column("rowid"), column("name_texts"))

Conditions = list[ColumnElement[bool]]


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

        The ranks: 0 for the text itself, 1 for what begins so, 2 for what holds it, 3 for what only
        the description fits.
        """
        rank = case(
            (lower == self.text, 0),
            (lower.startswith(self.text, autoescape=True), 1),
            (lower.contains(self.text, autoescape=True), 2),
            else_=3,
        )
        return (
            rank if self.long else case((lower == self.text, 0), else_=1),
            func.length(name),
            name,
        )

    def fits(self) -> ColumnElement[bool]:
        """Return the condition that a name or what is said of it fits."""
        lower = IndexedName.lower
        beginnings = [and_(lower >= word, lower < word + LAST) for word in self.short]
        if not self.long:
            return and_(*beginnings)
        if db.engine.dialect.name == "sqlite":
            named, described = f"lower : {_quoted(self.text)}", " AND ".join(map(_said, self.long))
            return or_(_matches(named), and_(_matches(described), *beginnings))
        words = (IndexedName.descriptions.contains(one, autoescape=True) for one in self.long)
        return or_(lower.contains(self.text, autoescape=True), and_(*words, *beginnings))


def _matches(query: str) -> ColumnElement[bool]:
    found = select(TEXTS.c.rowid).where(TEXTS.c.name_texts.op("MATCH")(query))
    return IndexedName.id.in_(found)


def _said(word: str) -> str:
    return f"descriptions : {_quoted(word)}"


def _quoted(text: str) -> str:
    """Return a text as a string of SQLite's full-text search, in which nothing is syntax."""
    return '"' + text.replace('"', '""') + '"'


def search(
    catalogs: Catalogs, text: str, *, limit: int, after: str | None
) -> tuple[list[Hit], int, bool]:
    """Return the names that fit a text, the best first, from the one behind `after` on.

    Also return how many there are altogether, and whether more follow. Catalogs without an index
    are searched by their names alone. Raises Busy if it takes too long to read these.
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
    """Return a page of the names that fit, and how many fit in all."""
    with db.engine.connect() as connection:
        served = _served(ids, connection)
        attr = select(IndexedOffer.attr).where(
            IndexedOffer.index_id.in_(ids.values()), IndexedOffer.attr == wanted.given
        )
        others = others | set(connection.scalars(attr.limit(1)))
        found = _placed(wanted, served, others)
        place = found.c.rank, found.c.length, found.c.name
        page = select(*place).order_by(*place).limit(limit)
        if after is not None:
            last = wanted.place(literal(after, BYTES), literal(after.lower(), BYTES))
            page = page.where(tuple_(*place) > tuple_(*last))
        rows = connection.execute(_with_total(page.subquery(), found)).all()
    return [row.name for row in rows if row.name is not None], rows[0].total


def _served(ids: Mapping[str, int], connection: Connection) -> Conditions:
    """Return the conditions that a name is in these indexes: none if there are no others.

    To look for each name takes as long as to find them.
    """
    others = select(CatalogIndex.id).where(CatalogIndex.id.not_in(ids.values())).limit(1)
    if connection.scalar(others) is None:
        return []
    mine = IndexedOffer.name_id == IndexedName.id, IndexedOffer.index_id.in_(ids.values())
    return [select(IndexedOffer.id).where(*mine).exists()]


def _placed(wanted: SearchText, served: Conditions, others: set[str]) -> CTE:
    """Return a table of the names that fit, others than those of indexes too, and their places."""
    names: Any = select(IndexedName.name, IndexedName.lower).where(wanted.fits(), *served)
    if others:
        other = _table_of(others)
        is_there = select(IndexedName.id).where(IndexedName.name == other, *served).exists()
        names = union_all(names, select(other, func.lower(other)).where(~is_there))
    names = names.subquery("names")
    rank, length, name = wanted.place(names.c.name, names.c.lower)
    return select(rank.label("rank"), length.label("length"), name).cte("found")


def _table_of(names: set[str]) -> ColumnElement[str]:
    """Return the column of a table of these names."""
    is_sqlite = db.engine.dialect.name == "sqlite"
    elements = func.json_each if is_sqlite else func.json_array_elements_text
    value = elements(literal(sorted(names), JSON)).table_valued("value").c.value
    return cast(value, BYTES).label("name")


def _with_total(page: Subquery, found: CTE) -> Select[Any]:
    """Select the names of a page with the total, in a row without a name if the page is empty."""
    total = select(func.count().label("total")).select_from(found).subquery("total")
    joined = total.outerjoin(page, true())
    in_order = page.c.rank, page.c.length, page.c.name
    return select(total.c.total, page.c.name).select_from(joined).order_by(*in_order)


def _hits(ids: Mapping[str, int], page: Sequence[str], wanted: SearchText) -> list[Hit]:
    """Return the names of a page with what the indexes know of them."""
    rows: dict[str, list[AnyRow]] = {name: [] for name in page}
    mine = _ROWS.where(IndexedOffer.index_id.in_(ids.values()))
    with db.engine.connect() as connection:
        for row in connection.execute(mine.where(IndexedName.name.in_(page))).all():
            rows[row.name].append(row)
        if wanted.given in rows:
            found = connection.execute(mine.where(IndexedOffer.attr == wanted.given)).all()
            rows[wanted.given] += [row for row in found if row.name != wanted.given]
    return [_hit(name, found) for name, found in rows.items()]


_ROWS = select(
    IndexedName.name,
    IndexedOffer.spelled,
    IndexedOffer.version,
    IndexedOffer.reason,
    IndexedOffer.description,
).join(IndexedName, IndexedName.id == IndexedOffer.name_id)


def _hit(name: str, rows: Sequence[AnyRow]) -> Hit:
    """Return a name with its newest version that may be had, a release where there is one."""
    free = [row for row in rows if row.reason is None]
    free.sort(key=lambda row: nix.order(row.spelled), reverse=True)
    releases = (row for row in free if not nix.is_prerelease(row.spelled))
    best = next(releases, free[0] if free else None)
    described = (row.description for row in (best, *rows) if row and row.description)
    return Hit(name, best.version if best else None, next(described, None))
