"""A PostgreSQL server for the tests: unprivileged, on a socket in a temporary folder."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from support import require, until

START_SECONDS = 30
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "log_min_messages": "fatal",
}


def find(program):
    """Return the path of one of PostgreSQL's programs; None when it is not installed."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1]
    path = os.pathsep.join([*map(str, packaged), os.environ["PATH"]])
    return shutil.which(program, path=path)


@contextmanager
def running_server():
    """Run a server; without PostgreSQL, skip the test, or fail it in CI."""
    require(find("initdb"), "PostgreSQL")
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Server:
    """A server that can be stopped and started again with the same data."""

    def __init__(self):
        # Not pytest's folder: the path of a socket must be short, and another user needs access.
        self.folder = Path(tempfile.mkdtemp(prefix="pkgd-pg-"))
        self.data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        made = self._run(
            "initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", self.data
        )
        assert made == 0, "initdb failed"

    def start(self):
        """Start the server, and wait until it accepts connections."""
        options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        # The kernel ends the server with the tests, also when they are killed.
        self.process = subprocess.Popen(
            self._unprivileged(
                *("setpriv", "--pdeathsig", "QUIT", "--"),
                *(find("postgres"), "-D", self.data, "-k", self.folder, *options),
            ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._is_ready, START_SECONDS, interval=0.05)

    def stop(self, number=signal.SIGINT):
        """Stop the server: SIGINT shuts it down cleanly, SIGQUIT as in a crash."""
        self.process.send_signal(number)
        self.process.wait()

    def remove(self):
        """Stop the server and delete its data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database):
        """Return the URL of one of the server's databases."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def _is_ready(self):
        return self._run("pg_isready", "-q", "-h", self.folder) == 0

    def _run(self, program, *arguments):
        argv = self._unprivileged(find(program), *arguments)
        return subprocess.run(argv, cwd=self.folder, stdout=subprocess.DEVNULL).returncode

    def _unprivileged(self, *argv):
        """Return a command that runs as an ordinary user: PostgreSQL refuses to run as root."""
        root = os.geteuid() == 0
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        return [*(user if root else []), *map(str, argv)]
