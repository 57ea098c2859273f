"""A PostgreSQL server of the tests' own: unprivileged, on a socket in a folder, nothing kept."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

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
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", self.data)

    def start(self):
        options = " ".join(f"-c {name}={value!r}" for name, value in SETTINGS.items())
        options += f" -k {self.folder}"
        self._run(
            "pg_ctl", "start", "-w", "-D", self.data, "-o", options, "-l", self.folder / "log"
        )

    def stop(self, mode="fast"):
        self._run("pg_ctl", "stop", "-w", "-D", self.data, "-m", mode)

    def restart(self):
        self.stop("immediate")
        self.start()

    def remove(self):
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def url(self, database):
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def _run(self, program, *arguments):
        argv = [find(program), *map(str, arguments)]
        if os.geteuid() == 0:  # the server refuses to run as root
            argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *argv]
        subprocess.run(
            argv, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
