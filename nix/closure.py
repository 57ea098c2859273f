"""Closures: all that store paths need, and the disk space that this takes.

Nix's database has the sizes and the references. Reading it takes less time than starting a program
of Nix, which would take longer than everything else that pkgd adds to a download.
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path

from nix.build import valid_paths
from nix.store import Store, call, call_in_batches, text

BUSY_SECONDS = 1
NAR_SIZE = re.compile(r'<data key="narSize">(\d+)</data>')

# No row unless every path asked for is in the database.
CLOSURE_SIZE = """
    WITH RECURSIVE
        asked(path) AS (SELECT DISTINCT value FROM json_each(?)),
        closure(id) AS (
            SELECT id FROM ValidPaths JOIN asked USING (path)
            UNION
            SELECT reference FROM Refs JOIN closure ON referrer = closure.id
        )
    SELECT (SELECT sum(narSize) FROM ValidPaths JOIN closure USING (id))
    WHERE (SELECT count(*) FROM asked) = (SELECT count(*) FROM ValidPaths JOIN asked USING (path))
"""


def closure_size(store: Store, paths: Collection[str]) -> int:
    """Return the bytes of these store paths and of all that they need; each path counts once.

    Raises NixError for a path that is not in the store.
    """
    size = _size_by_database(store, paths)
    return _size_by_nix(store, paths) if size is None else size


def closure(store: Store, paths: Iterable[str]) -> set[str]:
    """Return those of the paths that are valid, with all that they need."""
    argv = ["nix-store", "--query", "--requisites"]
    return set(call_in_batches(store, argv, valid_paths(store, paths)))


def _size_by_database(store: Store, paths: Collection[str]) -> int | None:
    """Return the size according to the database on this machine; None if that can't tell.

    This is no error: the paths may be in another store (NIX_REMOTE), and another version of Nix
    may have another schema.
    """
    state = Path(store.environ.get("NIX_STATE_DIR", "/nix/var/nix"))
    uri = f"{(state / 'db' / 'db.sqlite').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as database:
            row = database.execute(CLOSURE_SIZE, [json.dumps(list(paths))]).fetchone()
    except sqlite3.Error:
        return None
    size: int | None = row and row[0]
    return size


def _size_by_nix(store: Store, paths: Collection[str]) -> int:
    # GraphML is the only output that has the sizes of a whole closure in one call.
    graph = text(call(store, ["nix-store", "--query", "--graphml", *paths]))
    return sum(map(int, NAR_SIZE.findall(graph)))
