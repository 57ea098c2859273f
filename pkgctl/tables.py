"""Tables that fit a terminal: what is cut, what is left out, ages, and short ids."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise

from rich.cells import cell_len, set_cell_size

from pkgctl.client import JsonObject
from pkgctl.errors import printable

Getter = Callable[[JsonObject], object]

GAP = 2
SHORT_ID = 8
MIN_TEXT, MIN_WORDS = 10, 20  # to what a column is cut before others are left out
LEAST = 6  # to what it is cut in the end
MINUTE, HOUR, DAY = 60, 3600, 86_400
MONTH, YEAR = 2_629_800, 31_557_600
# Up to how many seconds an age is told in a unit, and that unit.
UNITS = (
    (MINUTE, 1, "s"),
    (HOUR, MINUTE, "min"),
    (2 * DAY, HOUR, "h"),
    (120 * DAY, DAY, "days"),
    (2 * YEAR, MONTH, "months"),
    (float("inf"), YEAR, "years"),
)


class Kind(Enum):
    """How a column is shown on a terminal."""

    FIXED = "whole, always"
    TEXT = "cut where it doesn't fit"
    WORDS = "cut at a word"
    TIME = "as an age"
    ID = "as its first digits"


@dataclass(frozen=True)
class Column:
    """A column: what it shows of an object, and how.

    On a narrow terminal those of the highest rank are left out first, and those of rank 0 never.
    One that has a rank and nothing in it is left out of any.
    """

    get: Getter
    kind: Kind = Kind.FIXED
    rank: int = 0


Columns = dict[str, Column]


def text_column(get: Getter, rank: int = 0) -> Column:
    """Return a column that may be cut."""
    return Column(get, Kind.TEXT, rank)


def words_column(get: Getter, rank: int = 0) -> Column:
    """Return a column that may be cut at a word."""
    return Column(get, Kind.WORDS, rank)


def time_column(get: Getter, rank: int = 0) -> Column:
    """Return a column of times, as in RFC 3339."""
    return Column(get, Kind.TIME, rank)


def plain_row(one: JsonObject, columns: Columns) -> list[str]:
    """Return an object's cells for a pipe: whole, with times as in RFC 3339."""
    return [plain_cell(column, column.get(one)) for column in columns.values()]


def plain_cell(column: Column, value: object) -> str:
    """Return a value as text, whole."""
    if column.kind is Kind.TIME and value:
        return whole_seconds(str(value))
    return cell(value)


def long_cell(column: Column, value: object) -> str:
    """Return a value as text, a time with its age."""
    shown = plain_cell(column, value)
    return f"{shown} ({age(str(value))})" if column.kind is Kind.TIME and value else shown


def cell(value: object) -> str:
    """Return a value as text without control characters."""
    return "-" if value in (None, "") else printable(str(value))


def whole_seconds(time: str) -> str:
    """Return an ISO 8601 time in UTC without fractions of a second."""
    return f"{time[:19]}Z"


def title(package: JsonObject) -> str:
    """Return a package's name and version."""
    return f"{package['name']} {package['version']}"


def age(time: str, now: datetime | None = None) -> str:
    """Return how long ago an ISO 8601 time was, or in how long it will be."""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(time)).total_seconds()
    if abs(seconds) < 1:
        return "now"
    unit, name = next((unit, name) for bound, unit, name in UNITS if abs(seconds) < bound)
    amount = f"{round(abs(seconds) / unit)} {name}"
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return the first digits of each id: all as many, so many that no two are alike; 8 or more."""
    length = SHORT_ID
    for one, other in pairwise(sorted(set(ids))):
        alike = next(n for n in range(len(one)) if one[n] != other[n])
        length = max(length, alike + 1)
    return [one[:length] for one in ids]


def fit(rows: list[JsonObject], columns: Columns, width: int) -> dict[str, list[str]]:
    """Return the cells of each column that is shown, cut so that a row fits in `width`."""
    cells = {name: _cells(rows, column) for name, column in columns.items()}
    shown = [name for name in columns if not columns[name].rank or set(cells[name]) - {"-"}]
    while True:
        widths = {name: max(map(cell_len, [name, *cells[name]])) for name in shown}
        floors = {name: _floor(name, widths[name], columns[name].kind) for name in shown}
        ranked = [name for name in shown if columns[name].rank]
        if _total(floors.values()) <= width or not ranked:
            break
        shown.remove(max(ranked, key=lambda name: columns[name].rank))

    if _total(floors.values()) > width:
        cuttable = {name for name in shown if columns[name].kind in (Kind.TEXT, Kind.WORDS)}
        floors |= {name: min(floors[name], LEAST) for name in cuttable}
    _shrink(widths, floors, width)
    return {
        name: [_cut(one, widths[name], columns[name].kind) for one in cells[name]] for name in shown
    }


def _cells(rows: list[JsonObject], column: Column) -> list[str]:
    values = [column.get(one) for one in rows]
    if column.kind is Kind.ID:
        return short_ids([str(value) for value in values])
    if column.kind is Kind.TIME:
        return [age(str(value)) if value else "-" for value in values]
    return [cell(value) for value in values]


def _floor(name: str, width: int, kind: Kind) -> int:
    """Return to what a column may be cut before others are left out."""
    floors = {Kind.TEXT: MIN_TEXT, Kind.WORDS: MIN_WORDS}
    return min(width, max(cell_len(name), floors.get(kind, width)))


def _total(widths: Collection[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _shrink(widths: dict[str, int], floors: dict[str, int], width: int) -> None:
    """Make the widest columns narrower, down to their floors, until a row fits."""
    while _total(widths.values()) > width:
        widest = max(widths, key=lambda name: (widths[name] > floors[name]) * widths[name])
        if widths[widest] <= floors[widest]:
            return
        widths[widest] -= 1


def _cut(text: str, width: int, kind: Kind) -> str:
    """Return a text cut to a width, with an ellipsis; of a path, the end is kept."""
    if cell_len(text) <= width:
        return text
    if kind is Kind.TEXT and text.startswith("/"):
        return f"…{_ending(text, width - 1)}"
    cut = set_cell_size(text, width - 1)
    whole_words = cut if text.startswith(f"{cut} ") else cut.rpartition(" ")[0]
    return f"{((kind is Kind.WORDS and whole_words) or cut).rstrip()}…"


def _ending(text: str, width: int) -> str:
    """Return as much of a text's end as fits a width in columns of the terminal."""
    starts = range(max(0, len(text) - width), len(text))
    return next((text[n:] for n in starts if cell_len(text[n:]) <= width), "")
