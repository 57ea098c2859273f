"""Signatures: texts of one length that tell whether a catalog is still the same."""

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

WATCHED_FILES = 500
# In a large checkout or channel, at least one of these changes with every update.
LANDMARKS = ("", "default.nix", ".version", ".git/HEAD", ".git/index")


def of_text(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def of_files(path: Path | None) -> str:
    """Return a value that changes whenever what is at `path` does: the state of its files.

    Of a large tree, such as nixpkgs, only the landmarks are looked at.
    """
    return of_text(repr(list(_states(path)) if path else []))


def _states(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield path, inode, time and size of each file that is watched."""
    top = Path(os.path.realpath(path))
    if not os.path.exists(top):
        return

    folder = top if top.is_dir() else top.parent
    files = list(islice(_files(folder), WATCHED_FILES + 1))
    if len(files) > WATCHED_FILES:
        files = [str(top), *(str(folder / landmark) for landmark in LANDMARKS)]

    for file in files:
        try:
            status = os.stat(file)
        except OSError:  # gone meanwhile, or not for us
            continue
        yield file, status.st_ino, status.st_mtime_ns, status.st_size


def _files(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        yield top
        for name in names:
            yield os.path.join(top, name)
