"""Wake-ups: named pipes in DATA_DIR by which a process wakes the idle workers of others.

A pool looks at the queue every now and then anyway: a wake-up that is lost only costs that time.
"""

import errno
import os
import select
import uuid
from contextlib import suppress
from pathlib import Path

from nix import trees

FOLDER = "wakeups"
READ_BYTES = 4096  # a wake-up is one: as many as come at once count as one


class WakeupPipe:
    """The named pipe by which the pool of this process is woken."""

    def __init__(self, data_dir: Path) -> None:
        """Make the pipe. Raises OSError."""
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
        """Wait up to `seconds` for a wake-up; tell whether there was one."""
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        if not poller.poll(max(0, round(1000 * seconds))):
            return False
        os.read(self._pipe, READ_BYTES)
        return True

    def wake(self) -> None:
        """Wake the thread that waits."""
        _wake(self.path)

    def remove(self) -> None:
        """Remove the pipe."""
        self.path.unlink(missing_ok=True)
        os.close(self._pipe)


def wake_others(data_dir: Path, own: WakeupPipe | None) -> None:
    """Wake the pools of all other processes; remove the pipes of those that have ended."""
    with suppress(OSError):
        for path in trees.listed(data_dir / FOLDER):
            if not path.name.startswith(".") and (own is None or path != own.path):
                _wake(path)


def _wake(path: Path) -> None:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads it
            path.unlink(missing_ok=True)
        return
    try:
        # It is full of wake-ups, or its reader has just closed it.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(pipe, b"!")
    finally:
        os.close(pipe)
