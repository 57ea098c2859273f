"""The version of Nix that a catalog wants, where this one is too old for it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

VERSION = r"v?(\d+(?:\.\d+)+)"

# How catalogs say it, nixpkgs' own throws first.
SAID = re.compile(
    rf"[Nn]ix\S*(?: version)?(?: reports)?(?: of)? (?:>=?|≥|at least|newer than) ?{VERSION}"
    rf"|(?:requires?|needs?|wants?)(?: at least)? Nix(?: version)? {VERSION}"
    rf"|Nix(?: version)? {VERSION} (?:or|and) (?:newer|later|higher|above|up)"
)
FEATURES = re.compile(
    r"requires an implementation of Nix with the following features:((?:\n- .*)+)"
)

# Where nixpkgs keeps it, until 2025 and since.
FILES = ("lib/minver.nix", "lib/minfeatures.nix")
IN_FILE = re.compile(rf'"{VERSION}"')

# The version of Nix in which builtins came that catalogs may use without asking.
BUILTINS = {
    "break": "2.9",
    "traceVerbose": "2.10",
    "readFileType": "2.14",
    "convertHash": "2.19",
    "addDrvOutputDependencies": "2.20",
    "warn": "2.23",
}
NO_BUILTIN = re.compile(r"attribute '(\w+)' missing")


def wanted(catalog: Path) -> str | None:
    """Return the oldest Nix that a catalog wants, by the file in which nixpkgs says so."""
    return max(_in_files([catalog]), key=_key, default=None)


def unmet(message: str, catalogs: Sequence[Path], present: str) -> str | None:
    """Return which newer Nix is behind the failure of an evaluation, in a sentence; None if none.

    `message` is Nix's, `catalogs` are those that were evaluated, `present` is this Nix's version.
    """
    newer = [wanted for wanted in _wanted(message, catalogs) if _key(wanted) > _key(present)]
    if newer:
        return f"it wants Nix {max(newer, key=_key)} or newer, and this is Nix {present}"
    if features := FEATURES.search(message):
        listed = ", ".join(features[1].removeprefix("\n- ").split("\n- "))
        return f"it wants a newer Nix, and this is Nix {present}; it lacks: {listed}"
    return None


def _wanted(message: str, catalogs: Sequence[Path]) -> Iterator[str]:
    for said in SAID.finditer(message):
        yield from filter(None, said.groups())

    missing = NO_BUILTIN.match(message)
    if missing and "builtins" in message:
        yield from filter(None, [BUILTINS.get(missing[1])])

    yield from _in_files(catalogs)


def _in_files(catalogs: Sequence[Path]) -> Iterator[str]:
    folders = (path.parent if path.suffix == ".nix" else path for path in catalogs)
    for file in (folder / name for folder in folders for name in FILES):
        with suppress(OSError):
            yield from IN_FILE.findall(file.read_text(errors="replace"))


def _key(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
