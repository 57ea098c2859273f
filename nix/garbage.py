"""Garbage: store paths that no GC root reaches, and the bytes that deleting them frees."""

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from nix.build import valid_paths
from nix.store import Store, call, call_in_batches, text

COLLECT_SECONDS = 3600


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
    text(call(store, ["nix-store", "--gc"], seconds=COLLECT_SECONDS))
    return before - _freed_by(dead)


def _dead(store: Store) -> set[str]:
    return set(_collector(store, "--print-dead"))


def _collector(store: Store, option: str) -> list[str]:
    return text(call(store, ["nix-store", "--gc", option], seconds=COLLECT_SECONDS)).splitlines()


def _live_without(store: Store, removed: Collection[str]) -> set[str]:
    """Return the paths that the collector keeps once the `removed` roots are gone.

    These are the closure of the other roots, and the derivations that it was built from
    (`keep-derivations`, which is Nix's default).
    """
    roots = (line.partition(" -> ") for line in _collector(store, "--print-roots"))
    kept = {path for root, _, path in roots if path and root not in removed}
    live = _closure(store, kept)

    derivers = set(call_in_batches(store, ["nix-store", "--query", "--deriver"], live))
    return live | _closure(store, derivers - {"unknown-deriver"})


def _closure(store: Store, paths: Iterable[str]) -> set[str]:
    """Return the closure of those of the paths that are valid."""
    argv = ["nix-store", "--query", "--requisites"]
    return set(call_in_batches(store, argv, valid_paths(store, paths)))


def _freed_by(paths: Iterable[str]) -> int:
    """Return the bytes of files that deleting these store paths frees."""
    links: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], os.stat_result] = {}
    for status in chain.from_iterable(map(_files, paths)):
        inode = status.st_dev, status.st_ino
        files[inode] = status
        links[inode] += 1

    # In an optimised store each file has one link more, which the collector removes once it is
    # the last.
    freed = (status for inode, status in files.items() if status.st_nlink - links[inode] <= 1)
    return sum(status.st_size for status in freed)


def _files(path: str) -> Iterator[os.stat_result]:
    """Yield the status of each file at or below `path` that exists."""
    for name in _tree(path):
        with suppress(FileNotFoundError):
            status = os.lstat(name)
            if not stat.S_ISDIR(status.st_mode):
                yield status


def _tree(path: str) -> Iterator[str]:
    yield path
    for top, folders, files in os.walk(path):
        yield from (os.path.join(top, name) for name in (*folders, *files))
