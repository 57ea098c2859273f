"""Packages that tests make up: for each, Nix runs a shell script to build it."""

import shutil
from pathlib import Path

SCRIPTED = Path(__file__).parent / "catalogs" / "scripted" / "default.nix"


class Recipes:
    """A catalog to which a test adds packages, all of version 1.0.0."""

    def __init__(self, folder):
        self.catalog = folder / "catalog"
        (self.catalog / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPTED, self.catalog)
        self.evidence = folder / "evidence"
        self.evidence.mkdir()

    def add(self, name, script="touch $out"):
        """Add a package that this script builds; return its name."""
        (self.catalog / "scripts" / name).write_text(f"{script}\n")
        return name

    def add_watched(self, name, script="sleep 0.1"):
        """Add a package whose builds record each start, each end, and each overlap.

        A build locks a file, and all of its processes share the lock: it lasts until the last of
        them has ended.
        """
        place = self.evidence / name
        return self.add(
            name,
            f"""
            exec 9>{place}.lock
            flock --nonblock 9 || echo {name} >>{self.evidence}/twice
            echo start >>{place}
            {script}
            echo end >>{place}
            touch $out
            """,
        )

    def gate(self, name):
        """Return a line of a script that waits until `open` is called with this name."""
        return f"until [ -e {self.evidence}/{name}.gate ]; do sleep 0.05; done"

    def open(self, name):
        """Let the scripts that wait at a gate go on."""
        (self.evidence / f"{name}.gate").touch()

    def said(self, name):
        """Return what a package's builds have recorded: `start` and `end`, in order."""
        path = self.evidence / name
        return path.read_text().split() if path.exists() else []

    def is_building(self, name):
        """Tell whether any process of a build of the package is running."""
        lock = self.evidence / f"{name}.lock"
        # Read from /proc: trying the lock could make a build believe that another one runs.
        return lock.exists() and f":{lock.stat().st_ino} " in Path("/proc/locks").read_text()

    def built_twice_at_once(self):
        """Return the packages of which two builds have run at the same time."""
        path = self.evidence / "twice"
        return path.read_text().split() if path.exists() else []
