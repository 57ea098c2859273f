"""A real nix-daemon of a private store, which tests start, kill and start again."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress

import psutil
from support import require, until

import nix


class Daemon:
    """The Nix daemon of a private store in `folder`; `store` is the store through it.

    Its store paths may be in another folder, `store_dir`.
    """

    def __init__(self, folder, store_dir=None):
        require(shutil.which("nix-daemon"), "nix-daemon")
        own = nix.private_store(folder, download_attempts="2").environ
        own = {**own, "NIX_STORE_DIR": str(store_dir or own["NIX_STORE_DIR"])}
        # Without a state folder, or NIX_REMOTE, a daemon would forward to itself without end.
        (folder / "var" / "nix").mkdir(parents=True)
        self._environ = {**own, "NIX_REMOTE": "local"}
        self.store = nix.Store({**own, "NIX_REMOTE": "daemon"})
        self.socket = folder / "socket"
        self._process = None

    def start(self):
        """Start the daemon, and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["nix-daemon"], env=self._environ, stdin=subprocess.DEVNULL, start_new_session=True
        )
        until(self._listens)

    def _listens(self):
        """Tell whether the daemon takes connections; the socket is there a little earlier."""
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(self.socket))
            return True
        return False

    def kill(self):
        """Kill the daemon and its processes for clients; builders that they started go on."""
        daemon = psutil.Process(self._process.pid)
        for process in (daemon, *daemon.children()):
            process.kill()
        self._process.wait()

    def freeze(self):
        """Stop the daemon without ending it: it accepts connections and never answers."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def close(self):
        """Kill the daemon if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
