"""Similar names: what somebody may have meant who mistyped or half remembered one."""

from collections.abc import Iterable
from heapq import nlargest
from itertools import pairwise

NEAR_NAMES = 5
LIKELY_NAMES = 200
SIMILAR = 0.6
LONGEST = 200  # of a name that is compared: the time goes by the product of two lengths


def near_names(wanted: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names most like `wanted`, the best first, and never itself."""
    if len(wanted) > LONGEST:
        return ()
    lower = wanted.lower()
    parts = _parts(lower)
    others = sorted(name for name in names if name != wanted and len(name) <= LONGEST)
    # Comparing letter by letter would take seconds for all of nixpkgs.
    likely = nlargest(LIKELY_NAMES, others, key=lambda name: _dice(parts, _parts(name.lower())))
    scored = sorted((-_similarity(lower, name.lower()), name) for name in likely)
    return tuple(name for score, name in scored if -score >= SIMILAR)[:NEAR_NAMES]


def _parts(word: str) -> set[str]:
    """Return the letters of a word, and its pairs of letters."""
    return {*word, *map("".join, pairwise(word))}


def _dice(one: set[str], two: set[str]) -> float:
    return 2 * len(one & two) / (len(one) + len(two))


def _similarity(one: str, two: str) -> float:
    """Return how similar two words are, 1 for the same one.

    The beginning of a name counts for more than the letters that it lacks, and letters in another
    order for more than other letters.
    """
    length = max(len(one), len(two))
    if two.startswith(one):
        return (1 + len(one) / length) / 2
    changes = _changes(one, two)
    return 1 - (changes / 2 if sorted(one) == sorted(two) else changes) / length


def _changes(one: str, two: str) -> int:
    """Return how many letters are to be added, removed, replaced or swapped with the next one."""
    before: list[int] = []
    last = list(range(len(two) + 1))
    for row, letter in enumerate(one, start=1):
        now = [row]
        for column, other in enumerate(two, start=1):
            cost = last[column - 1] + (letter != other)
            now.append(min(cost, last[column] + 1, now[-1] + 1))
            if row > 1 < column and letter == two[column - 2] and one[row - 2] == other:
                now[-1] = min(now[-1], before[column - 2] + 1)
        before, last = last, now
    return last[-1]
