"""Draining: the operator has workers finish what runs and take nothing new, also after a restart.

A file in DATA_DIR says so, and all who share that folder, and so the queue, look at it.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from fields import rfc3339

FILE = "drained"


def begin(folder: Path) -> bool:
    """Have no task taken from now on; return False where that was so already."""
    try:
        os.close(os.open(folder / FILE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def end(folder: Path) -> bool:
    """Have tasks taken again; return False where they were."""
    try:
        (folder / FILE).unlink()
    except FileNotFoundError:
        return False
    return True


def reason(folder: Path) -> str | None:
    """Return why no task is taken and since when; None where tasks are taken."""
    try:
        began = (folder / FILE).stat().st_mtime
    except FileNotFoundError:
        return None
    since = rfc3339(datetime.fromtimestamp(began, UTC))
    return f"drained since {since}: no task is taken until flask resume"
