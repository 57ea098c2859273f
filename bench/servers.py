"""The servers that are compared: pkgd, a bare Flask route, and the FastAPI peer."""

from contextlib import redirect_stdout, suppress
from pathlib import Path

import psutil
import requests
from service import BIN, Service

HERE = Path(__file__).resolve().parent
MIB = 1024 * 1024
PROCESSES = 2
THREADS = 4


class QuietService(Service):
    """A service that doesn't print its log when it is closed."""

    def __exit__(self, *_):
        with redirect_stdout(None):
            super().__exit__()


class ReferenceServer(QuietService):
    """A program that answers GET /hello on the service's port, in place of pkgd."""

    def __init__(self, argv, settings):
        """Take the command line; nothing starts yet."""
        super().__init__(settings)
        self.argv = argv

    def start(self):
        """Start the program and wait until it answers."""
        self.server = self._spawn(self.argv)
        self.await_ready()
        return self

    def is_ready(self):
        """Return whether the program answers."""
        with suppress(requests.ConnectionError):
            return self.session.get(f"{self.url}/hello", timeout=10).ok
        return False


def pkgd(folder, **settings):
    """Return pkgd on a new folder, not started yet."""
    return QuietService(
        {
            "DATA_DIR": folder / "data",
            "STORE_DIR": folder / "nix",
            "SECRET_KEY": "for-the-benchmark-only-and-long-enough",
            "WEB_PROCESSES": PROCESSES,
            "WEB_THREADS": THREADS,
            "MIN_FREE_BYTES": 0,
            **settings,
        }
    )


def bare(folder):
    """Return the bare Flask route, not started yet, with pkgd's number of processes and threads."""
    argv = [BIN / "gunicorn", "--config", HERE / "bare.conf.py", "bare:app"]
    settings = {"WEB_PROCESSES": PROCESSES, "WEB_THREADS": THREADS}
    return ReferenceServer(argv, {"DATA_DIR": folder / "bare", **settings})


def peer(folder, db_path, secret_key):
    """Return the FastAPI peer, not started yet, on a database of pkgd's schema."""
    settings = {"DB_PATH": db_path, "SECRET_KEY": secret_key}
    server = ReferenceServer([], {"DATA_DIR": folder / "peer", **settings})
    options = ("--workers", str(PROCESSES), "--port", str(server.port), "--no-access-log")
    server.argv = [BIN / "uvicorn", "--app-dir", HERE, *options, "peer:app"]
    return server


def pss_mib(server):
    """Return the memory of a server's processes in MiB; shared pages count once (PSS)."""
    return sum(process.memory_full_info().pss for process in _processes(server)) / MIB


def cpu_seconds(server):
    """Return the user and system time that a server's processes have used, in seconds."""
    times = [process.cpu_times() for process in _processes(server)]
    return sum(time.user + time.system for time in times)


def _processes(server):
    parent = psutil.Process(server.server.pid)
    return [parent, *parent.children(recursive=True)]
