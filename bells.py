"""Bells: named pipes in DATA_DIR by which a process wakes the workers of others that share it.

A pool looks at the queue every now and then anyway: a ring that is lost only costs that time.
"""

import errno
import os
import select
import uuid
from contextlib import suppress
from pathlib import Path

from nix import trees

FOLDER = "bells"
RINGS = 4096  # that are taken at once


class Bell:
    """The named pipe of one pool."""

    def __init__(self, data_dir: Path) -> None:
        """Hang the bell up. Raises OSError."""
        folder = data_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        name = str(uuid.uuid4())
        # Opened before it is renamed, so that the name never exists without a reader.
        unnamed = folder / f".{name}"
        os.mkfifo(unnamed, 0o600)
        # For writing, too: it would be ready to be read all the time once a writer has closed it.
        self._pipe = os.open(unnamed, os.O_RDWR | os.O_NONBLOCK)
        self.path = folder / name
        unnamed.rename(self.path)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for a ring; tell whether there was one."""
        listener = select.poll()
        listener.register(self._pipe, select.POLLIN)
        if not listener.poll(max(0, round(1000 * seconds))):
            return False
        os.read(self._pipe, RINGS)
        return True

    def ring(self) -> None:
        """Wake who waits."""
        _ring(self.path)

    def take_down(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        os.close(self._pipe)


def ring_others(data_dir: Path, own: Bell | None) -> None:
    """Ring the bells of all other pools; remove those of processes that have ended."""
    with suppress(OSError):
        for path in trees.listed(data_dir / FOLDER):
            if not path.name.startswith(".") and (own is None or path != own.path):
                _ring(path)


def _ring(path: Path) -> None:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads it
            path.unlink(missing_ok=True)
        return
    with suppress(BlockingIOError):  # it has rung often enough
        os.write(pipe, b"!")
    os.close(pipe)
