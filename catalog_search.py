"""Searching the catalogs for a text: names first, then descriptions."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import product

from sqlalchemy import ColumnElement, and_, column, or_, select, table

import nix
from catalog_models import IndexedOffer
from catalog_state import Catalogs
from fields import NAME_PATTERN
from models import AnyRow, db

BY_DESCRIPTION = 3  # the rank of a name that only its description may fit
SHORT = 3  # what is shorter is looked for at the beginning of names only
LAST = "\U0010ffff"  # sorts after whatever else a name may go on with

# SQLite's index of the texts by groups of three letters.
TEXTS = table("offer_texts", column("rowid"), column("offer_texts"))


Place = tuple[int, int, str]  # rank, length and name


@dataclass(frozen=True)
class Hit:
    """A name that was found, its newest version that may be had, and what it is."""

    name: str
    version: str | None = None
    description: str | None = None


class Text:
    """A text that is looked for, and how well names fit it."""

    def __init__(self, text: str) -> None:
        words = text.lower().split()
        self.given = text.strip()
        self.text = " ".join(words)
        self.short = [word for word in words if len(word) < SHORT]
        self.long = [word for word in words if len(word) >= SHORT]

    def rank(self, name: str) -> int | None:
        """Return 0 for the name itself, 1 for one that begins so, 2 for one that holds the text.

        3 for another one that may be meant by its description, None for one that can't be.
        """
        lower = name.lower()
        if self.text in lower and (self.long or lower.startswith(self.text)):
            return 0 if lower == self.text else 1 if lower.startswith(self.text) else 2
        if not all(map(lower.startswith, self.short)):
            return None
        return BY_DESCRIPTION if self.long else 1

    def place(self, name: str) -> Place:
        """Return what found names are sorted by."""
        rank = self.rank(name)
        return BY_DESCRIPTION if rank is None else rank, len(name), name

    def places(self, names: Iterable[str], worst: int = BY_DESCRIPTION) -> Iterator[Place]:
        """Yield the place of each name that fits, at worst in this rank."""
        for name in names:
            rank = self.rank(name)
            if rank is not None and rank <= worst:
                yield rank, len(name), name


def search(
    catalogs: Catalogs, text: str, *, limit: int, after: str | None
) -> tuple[list[Hit], int, bool]:
    """Return the names that fit a text, the best first, from the one behind `after` on.

    Also return how many there are altogether, and whether more follow. Catalogs without an index
    are searched by their names alone. Raises Busy if it takes too long to read these.
    """
    wanted = Text(text)
    in_order = catalogs.in_order()
    ids = catalogs.newest_indexes(in_order)
    found = set(wanted.places(_indexed(ids, wanted)))
    for catalog in in_order:
        if catalog.name not in ids:
            names = filter(_can_be_asked, catalogs.names(catalog))
            found.update(wanted.places(names, BY_DESCRIPTION - 1))

    last = None if after is None else wanted.place(after)
    rest = found if last is None else {place for place in found if place > last}
    page = [name for *_, name in nsmallest(limit, rest)]
    return _hits(ids, page, wanted), len(found), len(rest) > limit


def _can_be_asked(name: str) -> bool:
    return re.match(NAME_PATTERN, name) is not None


# --- Rows of the indexes ---


def _indexed(ids: Mapping[str, int], wanted: Text) -> Iterable[str]:
    """Return the names that the indexes have for a text, and the attribute of that name."""
    mine = IndexedOffer.index_id.in_(ids.values())
    by_name = select(IndexedOffer.name).where(mine, _fits(wanted)).distinct()
    by_attr = select(IndexedOffer.attr).where(mine, IndexedOffer.attr == wanted.given)
    with db.engine.connect() as connection:
        statements = (by_name, by_attr) if ids else ()
        return [name for one in statements for name in connection.scalars(one)]


def _fits(wanted: Text) -> ColumnElement[bool]:
    """Return the condition that a name or a description fits; no text in it is ever syntax."""
    if not wanted.long:
        return or_(*_beginnings(max(wanted.short, key=len)))
    if db.engine.dialect.name == "sqlite":
        words = " AND ".join(f"description : {_quoted(word)}" for word in wanted.long)
        query = f"name : {_quoted(wanted.text)} OR ({words})"
        fitting = select(TEXTS.c.rowid).where(TEXTS.c.offer_texts.op("MATCH")(query))
        return IndexedOffer.id.in_(fitting)
    words_in = (IndexedOffer.description.icontains(one, autoescape=True) for one in wanted.long)
    return or_(IndexedOffer.name.icontains(wanted.text, autoescape=True), and_(*words_in))


def _beginnings(word: str) -> Iterator[ColumnElement[bool]]:
    """Yield a condition for each way to write a short word in capital and small letters.

    Unlike a comparison without regard to case, these find names by the index of the table.
    """
    for letters in set(product(*((letter.lower(), letter.upper()) for letter in word))):
        beginning = "".join(letters)
        yield and_(IndexedOffer.name >= beginning, IndexedOffer.name < beginning + LAST)


def _quoted(text: str) -> str:
    """Return a text as a string of SQLite's full-text search."""
    return '"' + text.replace('"', '""') + '"'


def _hits(ids: Mapping[str, int], page: Sequence[str], wanted: Text) -> list[Hit]:
    """Return the names of a page with what the indexes know of them."""
    rows: dict[str, list[AnyRow]] = {name: [] for name in page}
    mine = _ROWS.where(IndexedOffer.index_id.in_(ids.values()))
    named = mine.where(or_(IndexedOffer.name.in_(page), IndexedOffer.attr == wanted.given))
    with db.engine.connect() as connection:
        for row in connection.execute(named).all() if ids else ():
            for name in {row.name, row.attr} & rows.keys():
                rows[name].append(row)
    return [_hit(name, found) for name, found in rows.items()]


_ROWS = select(
    IndexedOffer.name,
    IndexedOffer.attr,
    IndexedOffer.spelled,
    IndexedOffer.version,
    IndexedOffer.reason,
    IndexedOffer.description,
)


def _hit(name: str, rows: Sequence[AnyRow]) -> Hit:
    """Return a name with its newest version that may be had, a release where there is one."""
    free = [row for row in rows if row.reason is None]
    releases = [row for row in free if not nix.is_prerelease(row.spelled)]
    best = max(releases or free, key=lambda row: nix.order(row.spelled), default=None)
    described = (row.description for row in (best, *rows) if row and row.description)
    return Hit(name, best.version if best else None, next(described, None))
