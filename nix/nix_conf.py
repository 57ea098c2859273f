"""What nix.conf says, of the settings that decide how safely and whether builds run."""

import hashlib
import os
import platform
import re
import shutil
from contextlib import suppress
from pathlib import Path

from nix.process import find
from nix.store import Store

EVALUATOR = "nix-instantiate"
LINE = re.compile(r"^[ \t]*([\w-]+)[ \t]*=[ \t]*(.*?)[ \t]*(?:#.*)?$", re.MULTILINE)


def setting(store: Store, name: str) -> str | None:
    """Return the value that nix.conf, or NIX_CONFIG before it, gives a setting; None for neither.

    Files that nix.conf includes are not read, nor what the daemon was started with.
    """
    found: str | None = None
    for text in (_file(store), store.environ.get("NIX_CONFIG", "")):
        for line in LINE.finditer(text):
            if line[1] == name:
                found = line[2]
    return found


def daemon_socket(store: Store) -> Path | None:
    """Return the socket of the daemon by which Nix works on a store; None if it needs none."""
    environ = store.environ
    state = Path(environ.get("NIX_STATE_DIR", "/nix/var/nix"))
    remote = environ.get("NIX_REMOTE", "auto")
    is_ours = not state.exists() or os.access(state, os.W_OK)
    if remote not in ("", "auto", "daemon") or (remote != "daemon" and is_ours):
        return None
    given = environ.get("NIX_DAEMON_SOCKET_PATH", state / "daemon-socket" / "socket")
    return Path(given)


def evaluator(store: Store) -> str:
    """Return 64 hexadecimal digits that change with what evaluates catalogs: Nix and its settings.

    Of Nix, the file is looked at, which takes no time; the settings are those that `setting` reads,
    with all variables for Nix. Raises NixMissing.
    """
    find([EVALUATOR], store.environ)
    program = os.path.realpath(shutil.which(EVALUATOR, path=store.environ.get("PATH")) or "")
    status = os.stat(program)
    variables = sorted(one for one in store.environ.items() if one[0].startswith("NIX"))
    file = program, status.st_ino, status.st_mtime_ns, status.st_size
    what = repr([file, platform.machine(), _file(store), variables])
    return hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()


def _file(store: Store) -> str:
    with suppress(OSError):
        folder = store.environ.get("NIX_CONF_DIR", "/etc/nix")
        return Path(folder, "nix.conf").read_text(errors="replace")
    return ""
