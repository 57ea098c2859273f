"""Whether the service is asked for anything at present: a file in DATA_DIR tells when it was.

Work that can rest while somebody waits looks at it, since other processes than its own serve.
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path

FILE = "asked"
NOTE_SECONDS = 1
PRESENT_SECONDS = 3


class Traffic:
    """The requests to all processes that share DATA_DIR."""

    def __init__(self, data_dir: Path) -> None:
        """Use a file in this folder."""
        self._file = data_dir / FILE
        self._noted_at = -math.inf

    def note(self) -> None:
        """Note a request, though not more often than every NOTE_SECONDS."""
        now = time.monotonic()
        if now >= self._noted_at + NOTE_SECONDS:
            self._noted_at = now
            with suppress(OSError):  # a read-only folder: nobody rests
                self._note()

    def _note(self) -> None:
        """Set the time of access; that of change would make catalogs change that lie around it."""
        if not self._file.exists():
            self._file.touch(0o600)
        os.utime(self._file, (time.time(), 0))

    def is_any(self) -> bool:
        """Tell whether there was a request in the last PRESENT_SECONDS."""
        try:
            age = time.time() - self._file.stat().st_atime
        except FileNotFoundError:
            return False
        return abs(age) < PRESENT_SECONDS
