"""Garbage: store paths that no GC root reaches, and the bytes that deleting them frees."""

import fcntl
import os
import re
import resource
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from nix import trees
from nix.build import valid_paths
from nix.closure import closure
from nix.errors import NixError
from nix.process import Completed
from nix.store import Store, call, call_in_batches, text

COLLECT_SECONDS = 3600
IN_THE_WAY_SECONDS = 60
AGAIN_SECONDS = 0.2
# Versions of Nix differ in their words and in their quotation marks.
PROCESS_IN_THE_WAY = re.compile(rb"read(?:ing |_)symlink[^\n]*: File name too long")
TOO_LONG = re.compile(rb"""['"](/[^'"\n]*/[0-9a-z]{32}-[^/'"\n]+)/[^\n]*: File name too long""")


def garbage_bytes(store: Store, without_roots: Collection[Path] = ()) -> int:
    """Return the bytes that collect_garbage would free if these GC roots were removed first."""
    dead = _dead(store)
    if without_roots:
        everything = dead.union(_collector(store, "--print-live"))
        dead = everything - _live_without(store, {str(root) for root in without_roots})
    return _freed_by(dead)


def collect_garbage(store: Store) -> int:
    """Delete every store path that no GC root reaches; return the bytes that this freed."""
    dead = _dead(store)
    before = _freed_by(dead)
    done = _collect(store)
    while found := TOO_LONG.search(done.stderr):
        _remove_unfinished(store, found[1].decode())
        done = _collect(store)
    text(done)
    return before - _freed_by(dead)


def delete(store: Store, path: str) -> None:
    """Delete a store path. Raises NixError where something needs it."""
    text(_gc(store, "nix-store", "--delete", path))


def _collect(store: Store) -> Completed:
    # Nix keeps all folders open on its way down: let it have as many descriptors as it may.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _gc(store, "prlimit", f"--nofile={limit}:", "nix-store", "--gc")


def _gc(store: Store, *argv: str) -> Completed:
    """Run the collector, again after a while if a process is in its way.

    It looks at the open files of all processes, and fails at one in a folder whose path is too long
    for it, which a builder may be in.
    """
    deadline = time.monotonic() + IN_THE_WAY_SECONDS
    while True:
        done = call(store, argv, seconds=COLLECT_SECONDS)
        if not PROCESS_IN_THE_WAY.search(done.stderr) or time.monotonic() >= deadline:
            return done
        time.sleep(AGAIN_SECONDS)


def _remove_unfinished(store: Store, path: str) -> None:
    """Remove what a failed build has left, since paths in it are too long for Nix.

    Raises NixError where that can't be done.
    """
    # Nix's own lock: while it is held, no build writes there.
    with suppress(OSError), open(f"{path}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not valid_paths(store, [path]):
            trees.remove(Path(path))
    if os.path.lexists(path):
        raise NixError(f"paths in {path} are too long for Nix to delete it: remove it as root")


def _dead(store: Store) -> set[str]:
    return set(_collector(store, "--print-dead"))


def _collector(store: Store, option: str) -> list[str]:
    return text(_gc(store, "nix-store", "--gc", option)).splitlines()


def _live_without(store: Store, removed: Collection[str]) -> set[str]:
    """Return the paths that the collector keeps once the `removed` roots are gone.

    These are the closure of the other roots, and the derivations that it was built from
    (`keep-derivations`, which is Nix's default).
    """
    roots = (line.partition(" -> ") for line in _collector(store, "--print-roots"))
    kept = {path for root, _, path in roots if path and root not in removed}
    live = closure(store, kept)

    derivers = set(call_in_batches(store, ["nix-store", "--query", "--deriver"], live))
    return live | closure(store, derivers - {"unknown-deriver"})


def _freed_by(paths: Iterable[str]) -> int:
    """Return the bytes of files that deleting these store paths frees."""
    links: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], os.stat_result] = {}
    for status in chain.from_iterable(map(trees.files, map(Path, paths))):
        inode = status.st_dev, status.st_ino
        files[inode] = status
        links[inode] += 1

    # In an optimised store each file has one link more, which the collector removes once it is
    # the last.
    freed = (status for inode, status in files.items() if status.st_nlink - links[inode] <= 1)
    return sum(status.st_size for status in freed)
