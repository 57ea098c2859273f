"""What nix.conf says, of the settings that decide how safely and whether builds run."""

import os
import re
from contextlib import suppress
from pathlib import Path

from nix.store import Store

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


def _file(store: Store) -> str:
    with suppress(OSError):
        folder = store.environ.get("NIX_CONF_DIR", "/etc/nix")
        return Path(folder, "nix.conf").read_text(errors="replace")
    return ""
