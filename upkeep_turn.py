"""Whose turn the upkeep is: of the processes that share DATA_DIR, one does it for all.

That one has the lock on a file, which the kernel frees when it ends, and marks each round that it
has done. While it does none, because it is stopped or fails, the others do the upkeep, too.
"""

import os
import time
from pathlib import Path

from file_lock import try_lock

FILE = "upkeep.lock"
STALE_SECONDS = 5.0


class UpkeepTurn:
    """The turn as one process sees it."""

    def __init__(self, data_dir: Path) -> None:
        """Open the file. Raises OSError."""
        self._file = os.open(data_dir / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        self._is_ours = False

    def is_of_another(self) -> bool:
        """Tell whether another process does the upkeep; else take the turn if it is free."""
        if not self._is_ours and try_lock(self._file):
            self._is_ours = True
            self.mark()
        age = time.time() - os.fstat(self._file).st_mtime
        return not self._is_ours and 0 <= age < STALE_SECONDS

    def mark(self) -> None:
        """Note that a round is done, where the turn is this process's."""
        if self._is_ours:
            os.utime(self._file)

    def release(self) -> None:
        """Give the turn up, and close the file."""
        os.close(self._file)
