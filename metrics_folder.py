"""The folder of the request metrics, which all processes of one server write to.

Each server has a folder of its own, locked while any of its processes lives. So a start clears
nothing but what servers that were killed have left: the kernel drops their locks.
"""

import fcntl
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

SHARED = "PROMETHEUS_MULTIPROC_DIR"
# In tmpfs: writing to an mmapped file on a full disk is SIGBUS.
MEMORY = Path("/dev/shm")  # noqa: S108 # the folders in it have the mode 0700
PREFIX = f"pkgd-metrics-{os.getuid()}-"
# Made at import, so that a reload of the configuration finds the same name.
FOLDER = MEMORY / f"{PREFIX}{uuid.uuid4()}"
LOCK = "lock"


def announce() -> None:
    """Tell prometheus_client, which must not be imported before, where the folder will be."""
    os.environ[SHARED] = str(FOLDER)


def create() -> None:
    """Create the folder, and remove those of servers that are dead."""
    remove_dead()
    # Lock before renaming, so that the name never exists unlocked.
    unnamed = MEMORY / f".{FOLDER.name}"
    unnamed.mkdir(mode=0o700)
    lock = os.open(unnamed / LOCK, os.O_WRONLY | os.O_CREAT, 0o600)  # never closed
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(FOLDER)


def remove() -> None:
    """Remove the folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def remove_dead() -> None:
    """Remove the folders that no process has locked.

    Everybody may write in /dev/shm: what other users have put there is passed over.
    """
    for folder in MEMORY.glob(f"{PREFIX}*"):
        # Another start may remove it first, or hold the lock.
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid():
                _remove_unless_locked(folder)


def _remove_unless_locked(folder: Path) -> None:
    """Remove the folder. Raises OSError if it is locked, or no folder of a server."""
    # Without waiting for the writer of a pipe.
    lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
