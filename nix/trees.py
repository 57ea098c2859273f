"""Folders, and trees of files that builders made: as deep and with paths as long as they like.

A builder can exceed Python's limit for recursion, and the system's for the length of a path and for
open descriptors. So a walk goes down and up by one descriptor, from name to name.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# The descriptor of a folder, and the name and the status of what is in it.
Entry = tuple[int, str, os.stat_result]


def listed(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it does not exist.

    Raises OSError where it can't be read, which Path.glob hides since Python 3.13.
    """
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def files(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of each file at or below `path`, as far as it can be read."""
    with suppress(OSError):
        for _, _, status in _walk(path, lambda _folder, _name: None):
            if not stat.S_ISDIR(status.st_mode):
                yield status


def remove(path: Path) -> None:
    """Remove the tree, even if folders in it are read-only; keep what can't be removed."""
    with suppress(OSError):
        for folder, name, status in _walk(path, _make_writable):
            delete = os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink
            with suppress(OSError):
                delete(name, dir_fd=folder)


def _make_writable(folder: int, name: str) -> None:
    with suppress(OSError):
        os.chmod(name, stat.S_IRWXU, dir_fd=folder)


@dataclass
class _Level:
    """A folder on the way down: its name, its status, and which names in it are left to visit."""

    name: str
    status: os.stat_result
    left: list[str]


def _walk(path: Path, prepare: Callable[[int, str], None]) -> Iterator[Entry]:
    """Yield each file and folder of the tree, a folder after what is in it.

    `prepare` is called before a folder is opened; one that can't be opened counts as empty. Raises
    OSError where others change the tree meanwhile.
    """
    here = os.open(path.parent, FOLDER & ~os.O_NOFOLLOW)
    levels = [_Level("", os.fstat(here), [path.name])]
    try:
        while levels:
            if levels[-1].left:
                name = levels[-1].left.pop()
                status = os.lstat(name, dir_fd=here)
                inner = _opened(here, name, prepare) if stat.S_ISDIR(status.st_mode) else None
                if inner is None:
                    yield here, name, status
                else:
                    here = _instead_of(here, inner)
                    levels.append(_Level(name, status, os.listdir(here)))
            else:
                done = levels.pop()
                if levels:
                    here = _instead_of(here, os.open("..", FOLDER, dir_fd=here))
                    _check_same(here, levels[-1].status)
                    yield here, done.name, done.status
    finally:
        os.close(here)


def _opened(folder: int, name: str, prepare: Callable[[int, str], None]) -> int | None:
    prepare(folder, name)
    with suppress(OSError):
        return os.open(name, FOLDER, dir_fd=folder)
    return None


def _instead_of(descriptor: int, other: int) -> int:
    os.close(descriptor)
    return other


def _check_same(folder: int, status: os.stat_result) -> None:
    """Raise OSError where ".." leads elsewhere: the folder was moved while the walk was in it."""
    if not os.path.samestat(os.fstat(folder), status):
        raise OSError("a folder was moved")
