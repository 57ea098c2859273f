"""Packages that tests make up: a shell script each, which Nix runs to build it."""

import shutil
from pathlib import Path

SCRIPTED = Path(__file__).parent / "catalogs" / "scripted" / "default.nix"


class Recipes:
    """A catalog in a folder of its own, to which packages of version 1.0.0 are added."""

    def __init__(self, folder):
        self.catalog = folder / "catalog"
        (self.catalog / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPTED, self.catalog)
        self.evidence = folder / "evidence"
        self.evidence.mkdir()

    def add(self, name, script="touch $out"):
        """Offer a package that this script builds; return its name."""
        (self.catalog / "scripts" / name).write_text(f"{script}\n")
        return name

    def add_watched(self, name, script="sleep 0.1"):
        """Offer a package whose builds leave evidence: of each start, each end, each overlap.

        The lock is held by whatever is left of a build, and dropped when the last process dies.
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
        """Return a line of script that waits until the gate of that name is opened."""
        return f"until [ -e {self.evidence}/{name}.gate ]; do sleep 0.05; done"

    def open(self, name):
        """Open a gate for good."""
        (self.evidence / f"{name}.gate").touch()

    def said(self, name):
        """Return what a package's builds have left: `start` and `end` in the order they came."""
        path = self.evidence / name
        return path.read_text().split() if path.exists() else []

    def is_building(self, name):
        """Tell whether a build of the package, or what is left of one, runs at this moment."""
        lock = self.evidence / f"{name}.lock"
        # asked of the kernel: to try the lock would be to stand in the build's way
        return lock.exists() and f":{lock.stat().st_ino} " in Path("/proc/locks").read_text()

    def built_twice_at_once(self):
        """Return the packages of which two builds ran at the same time."""
        path = self.evidence / "twice"
        return path.read_text().split() if path.exists() else []
