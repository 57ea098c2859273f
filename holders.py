"""Who holds leases: each worker pool, by a file that is locked for as long as its process lives.

The kernel drops the lock however the process ends, so whoever shares the folder can tell at once
that a holder is dead, across containers and reboots, without asking for process ids.
"""

import fcntl
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO


class Holder:
    """One worker pool's identity, alive until it is released or the process ends."""

    def __init__(self, folder: Path) -> None:
        """Take an identity in `folder`, which is made where it's missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.id = str(uuid.uuid4())
        self._path = folder / self.id
        # locked before it gets its name: under that name nobody ever sees it unlocked
        unnamed = folder / f".{self.id}"
        self._file: IO[bytes] = unnamed.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.rename(self._path)

    def release(self) -> None:
        """Give the identity up."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def dead(folder: Path, ids: Iterable[str]) -> list[str]:
    """Return which of these holders are known to be dead; one without a file here isn't known."""
    return [holder for holder in ids if _is_unlocked(folder / holder)]


def bury(folder: Path) -> None:
    """Remove the files of dead holders, once nothing is held by them."""
    for path in folder.glob("[!.]*"):
        if _is_unlocked(path):
            path.unlink(missing_ok=True)


def _is_unlocked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False
