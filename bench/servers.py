"""The servers that are measured: pkgd, nginx, a bare Flask route, and the FastAPI peer."""

from contextlib import redirect_stdout, suppress
from pathlib import Path

import psutil
import requests
from proxy import Nginx
from service import BIN, Service
from support import BUNDLED, until

from nix.reaping import REAPER

HERE = Path(__file__).resolve().parent
MIB = 1024 * 1024
MEMORY = "MiB PSS"
INDEX_BYTES = 1024 * MIB  # the default
INDEX_SECONDS = 300
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


class Front(Nginx):
    """An nginx in front of a service, which doesn't print its log when it is closed."""

    def __init__(self, folder, service, changes=()):
        """Write the configuration, with changes (old, new) to its text."""
        super().__init__(folder, service.port, changes)
        self.behind = service
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def server(self):
        """Its main process."""
        return self.process

    def __exit__(self, *_):
        with redirect_stdout(None):
            super().__exit__()


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
            # Not the machine's nixpkgs; and no index, which would be made beside what is measured.
            "CATALOGS": BUNDLED,
            "INDEX_BYTES": 0,
            **settings,
        }
    )


def bare(folder):
    """Return the bare Flask route, not started yet, with pkgd's number of processes and threads.

    All else is as gunicorn has it by default.
    """
    server = ReferenceServer([], {"DATA_DIR": folder / "bare"})
    options = {
        "--worker-class": "gthread",
        "--workers": PROCESSES,
        "--threads": THREADS,
        "--bind": f"127.0.0.1:{server.port}",
        "--pythonpath": HERE,
    }
    given = [str(word) for option in options.items() for word in option]
    # The socket, which is at the same place for all servers of a user, has no part in requests.
    server.argv = [BIN / "gunicorn", *given, "--no-control-socket", "bare:app"]
    return server


def peer(folder, db_path, secret_key):
    """Return the FastAPI peer, not started yet, on a database of pkgd's schema."""
    settings = {"DB_PATH": db_path, "SECRET_KEY": secret_key}
    server = ReferenceServer([], {"DATA_DIR": folder / "peer", **settings})
    options = ("--workers", str(PROCESSES), "--port", str(server.port), "--no-access-log")
    server.argv = [BIN / "uvicorn", "--app-dir", HERE, *options, "peer:app"]
    return server


def add_memory(results, what, subject, server):
    """Add the memory of a server's processes, in which shared pages count once (PSS)."""
    pss = sum(process.memory_full_info().pss for process in _processes(server))
    results.series(what, subject, MEMORY).add(pss / MIB)


def await_idle(service):
    """Wait until pkgd's own processes, and those that fork reapers, run no others, such as Nix."""

    def is_idle():
        with suppress(psutil.NoSuchProcess):
            others = [one for one in _processes(service) if str(REAPER) not in one.cmdline()]
            return len(others) == 1 + PROCESSES
        return False

    until(is_idle)


def await_indexes(service):
    """Wait until what a service's catalogs offer is indexed and verified."""

    def is_done():
        return all(one["verification"] == "current" for one in service.get("catalogs"))

    until(is_done, INDEX_SECONDS)


def cpu_seconds(server):
    """Return the CPU time, in seconds, of a server's processes and of all that they have run.

    It is counted in hundredths. That of nginx includes the server behind it.
    """
    times = [process.cpu_times() for process in _processes(server)]
    own = sum(time.user + time.system + time.children_user + time.children_system for time in times)
    return own + (cpu_seconds(server.behind) if isinstance(server, Front) else 0)


def _processes(server):
    parent = psutil.Process(server.server.pid)
    return [parent, *parent.children(recursive=True)]
