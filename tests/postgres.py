"""A PostgreSQL server of the tests' own: unprivileged, on a socket in a folder, nothing kept."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

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
    """Return the path of one of PostgreSQL's programs, None when there is none."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1]
    path = os.pathsep.join([*map(str, packaged), os.environ["PATH"]])
    return shutil.which(program, path=path)


class Server:
    """A server that can be started, stopped and restarted."""

    def __init__(self):
        # a socket's path is short by law, and the folder must be open to the server's own user
        self.folder = Path(tempfile.mkdtemp(prefix="pkgd-pg-"))
        self.data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        made = self._ask(
            "initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", self.data
        )
        assert made == 0, "initdb failed"

    def start(self):
        options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        # whatever becomes of the tests, the server ends with them
        self.process = subprocess.Popen(
            self._unprivileged(
                *("setpriv", "--pdeathsig", "QUIT", "--"),
                *(find("postgres"), "-D", self.data, "-k", self.folder, *options),
            ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while self._ask("pg_isready", "-q", "-h", self.folder) != 0:
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self, number=signal.SIGINT):
        """Stop: by SIGINT orderly, by SIGQUIT as if the machine had failed."""
        self.process.send_signal(number)
        self.process.wait()

    def restart(self):
        self.stop(signal.SIGQUIT)
        self.start()

    def remove(self):
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database):
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def _ask(self, program, *arguments):
        argv = self._unprivileged(find(program), *arguments)
        return subprocess.run(argv, cwd=self.folder, stdout=subprocess.DEVNULL).returncode

    def _unprivileged(self, *argv):
        """Return a command as it has to be run: the server refuses to run as root."""
        root = os.geteuid() == 0
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        return [*(user if root else []), *map(str, argv)]
