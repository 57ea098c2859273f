"""Versions: the Semantic Version of each spelling that catalogs have, and their order.

Every spelling stands for exactly one Semantic Version of at most 64 characters:

- A valid one stands for itself, also after a `v`: `7.1.1-29`, `v1.2.3`.
- Otherwise the numbers come first, without leading zeros, and 0 for missing ones: `2.10` is
  `2.10.0`.
- The words of a pre-release (prereleases.json), up to a `+` or to `unstable`, follow a hyphen:
  `1.0~rc1` is `1.0.0-rc1`. A single letter counts between numbers: `3.13a1`, but not `16B02`.
- All else is build metadata, which has no part in the precedence: `1.2.3.4` is `1.2.3+4`, `1.0.2k`
  is `1.0.2+k`, `0-unstable-2024-01-15` is `0.0.0+unstable-2024-01-15`. No version is `0.0.0`.
- Characters that Semantic Versioning has not become `-`; what is too long is cut, and ends with a
  digest.

versions.nix has the same rules in Nix, where a version is looked for; a test compares the two.
"""

import json
import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from semver import Version

LENGTH = 64
READ_BYTES = 128
NUMBERS = 3
REMEMBERED = 4096  # the same versions are sorted again and again

WORDS = json.loads(Path(__file__).with_name("prereleases.json").read_text())
V = re.compile(r"\A[vV](?=[0-9])")
NUMBER = re.compile("[0-9]{1,16}(?![0-9])")
LETTERS = re.compile("[a-z]+")
END = re.compile(r"\+|unstable")
BEFORE_LETTER = re.compile("([.][0-9]+)*[^0-9a-z]?")
AFTER_LETTER = re.compile("[0-9]{1,3}(?![0-9a-z])")  # digits and a letter are part of a hash
NO_IDENTIFIER = re.compile("[^0-9A-Za-z.-]+")
TRAILING_ZEROS = re.compile(r"([.]0+)*[^0-9A-Za-z]*\Z")
COMPONENT = re.compile("[0-9]+|[^0-9.-]+")
NUMERIC = re.compile("0*[0-9]{1,10}")
MAX_INT = 2**31 - 1  # beyond it, Nix compares digits as text

Key = tuple[tuple[int, int, str], ...]


def semantic(spelled: str) -> str:
    """Return the Semantic Version that stands for a catalog's spelling of a version."""
    # Nix sees the bytes of UTF-8.
    text = _shortened(READ_BYTES, spelled.encode(errors="replace").decode("latin-1"))
    text = V.sub("", text)
    if len(text) <= LENGTH and Version.is_valid(text):
        return text

    numbers, rest = _numbers(text)
    start, end = _prerelease(rest, has_numbers=rest != text)
    before, prerelease, after = rest[:start], rest[start:end], rest[end:]
    mapped = ".".join(str(number) for number in numbers)
    if found := [_without_zeros(part) for part in _identifiers(prerelease)]:
        mapped += "-" + ".".join(found)
    if found := [*_identifiers(before), *_identifiers(after)]:
        mapped += "+" + ".".join(found)
    return _shortened(LENGTH, mapped)


def is_prerelease(spelled: str) -> bool:
    """Tell whether the words of a spelling make it a pre-release; a hyphen alone does not."""
    return _start_of_prerelease(spelled) is not None


@lru_cache(REMEMBERED)
def order(spelled: str) -> tuple[Key, bool, Key]:
    """Return what spellings are sorted by: as Nix compares them, a pre-release before its release.

    Nix knows no such word but `pre`: a pre-release is placed by what comes before its words.
    """
    start = _start_of_prerelease(spelled)
    if start is None:
        return _key(spelled), True, ()
    return _key(TRAILING_ZEROS.sub("", spelled[:start])), False, _key(spelled[start:].lower())


def distance(version: str, other: str) -> tuple[int, ...]:
    """Return how far another Semantic Version is from one, for sorting: by the first other number.

    On the far side of it, the numbers that follow count down to the version, or up from it.
    """
    one, two = Version.parse(version).to_tuple()[:3], Version.parse(other).to_tuple()[:3]
    apart = [there - here for here, there in zip(one, two, strict=True)]
    first = next((place for place, number in enumerate(apart) if number), 2)
    sign = 1 if apart[first] > 0 else -1
    return (*map(abs, apart[: first + 1]), *(sign * number for number in two[first + 1 :]))


def _shortened(limit: int, text: str) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{sha256(text.encode('latin-1')).hexdigest()[:8]}"


def _numbers(text: str) -> tuple[list[int], str]:
    """Return three numbers from the beginning of a text, 0 for each missing one, and the rest."""
    numbers: list[int] = []
    rest = text
    while len(numbers) < NUMBERS:
        found = NUMBER.match(rest, 1 if numbers else 0)
        if found is None or (numbers and rest[0] != "."):
            break
        numbers.append(int(found[0]))
        rest = rest[found.end() :]
    return numbers + [0] * (NUMBERS - len(numbers)), rest


def _prerelease(rest: str, *, has_numbers: bool) -> tuple[int, int]:
    """Return where a pre-release begins and ends in what follows the numbers."""
    lower = rest.lower()
    end = found.start() if (found := END.search(lower)) else len(rest)
    for run in LETTERS.finditer(lower, 0, end):
        is_word = run[0] in WORDS["long"] or (
            has_numbers
            and rest[run.start() : run.end()] in WORDS["short"]
            and BEFORE_LETTER.fullmatch(lower, 0, run.start())
            and AFTER_LETTER.match(lower, run.end(), end)
        )
        if is_word:
            return run.start(), end
    return len(rest), len(rest)


def _start_of_prerelease(spelled: str) -> int | None:
    """Return where the words of a pre-release begin in a spelling."""
    text = spelled[1:] if V.match(spelled) else spelled
    _, rest = _numbers(text)
    start, _ = _prerelease(rest, has_numbers=rest != text)
    return None if start == len(rest) else len(spelled) - len(rest) + start


def _identifiers(text: str) -> list[str]:
    clean = NO_IDENTIFIER.sub("-", text).strip("-.")
    return [part for part in clean.split(".") if part]


def _without_zeros(identifier: str) -> str:
    return str(int(identifier)) if identifier.isdecimal() else identifier


def _key(spelled: str) -> Key:
    """Return the components of a version as builtins.compareVersions ranks them."""
    found = (_component(part) for part in COMPONENT.findall(spelled))
    return (*found, (1, 0, ""))  # which counts as less than any other component but `pre`


def _component(part: str) -> tuple[int, int, str]:
    if NUMERIC.fullmatch(part) and (number := int(part)) <= MAX_INT:
        return 3, number, ""
    return (0, 0, "") if part == "pre" else (2, 0, part)
