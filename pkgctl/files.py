"""Writing a file in one step, so that a reader has the old text or the new one."""

import os
import secrets
from pathlib import Path


def replace(path: Path, text: str, mode: int) -> None:
    """Replace a file, where a link leads to if it is one. Raises OSError.

    A new one gets `mode`, less what the umask takes.
    """
    path = Path(os.path.realpath(path))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise
