"""Machines with a Nix of their own, each in a mount namespace that has its store in the one place.

A store path holds the place of its store, so that those of the server and of the machines have to
be in the same folder. Each machine sees its own one there.
"""

import os
import shutil
import subprocess
import sys

import pytest
from service import ROOT
from support import IN_CI

import nix

# Who isn't root may mount in a user namespace, where those exist.
UNSHARE = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
SECONDS = 120


def require_namespaces():
    """Skip the test where this user may not mount; in CI, where nothing may be missing, fail it."""
    argv = [*UNSHARE, "sh", "-c", MOUNT, "sh", "/tmp", "/tmp", "true"]
    if shutil.which("unshare") is None or subprocess.run(argv, capture_output=True).returncode:
        assert not IN_CI, "mount namespaces don't work here"
        pytest.skip("mount namespaces don't work here")


class Host:
    """A machine that follows a profile of a server, which it keeps at `profile`."""

    def __init__(self, name, folder, store_dir, url, token):
        self.name = name
        self.profile = folder / "profile"
        self._mount = (folder / "nix" / "store", store_dir)
        self._mount[0].mkdir(parents=True)
        own = nix.private_store(folder / "nix").environ
        self.environ = {**own, "NIX_STORE_DIR": str(store_dir), "NO_PROXY": "127.0.0.1"}
        self.environ |= {
            "PKGCTL_URL": url,
            "PKGCTL_TOKEN": token,
            "PYTHONPATH": os.environ["PYTHONPATH"],
        }

    def run(self, *argv):
        """Run a program where the machine's store is in its place."""
        more = {"capture_output": True, "text": True, "timeout": SECONDS}
        return subprocess.run(self._words(argv), env=self.environ, cwd=ROOT, **more)

    def sync(self, profile, *words):
        """Run `pkgctl sync` of a profile; return how it ended."""
        return self.run(*self._sync(profile), *words)

    def start_sync(self, profile, *words, **more):
        """Start `pkgctl sync` of a profile; return its process."""
        argv = self._words((*self._sync(profile), *words))
        return subprocess.Popen(argv, env=self.environ, cwd=ROOT, **more)

    def _words(self, argv):
        return [*UNSHARE, "sh", "-c", MOUNT, "sh", *self._mount, *argv]

    def _sync(self, profile):
        argv = (sys.executable, "-m", "pkgctl", "sync", profile, "--to", self.profile)
        return (*argv, "--name", self.name)

    def says(self, program):
        """Run a program of the profile; return what it prints."""
        done = self.run(self.profile / "bin" / program)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
