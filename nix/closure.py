"""Closures: how much a store path takes up with all that it needs.

Nix has that on record in its database, where it is looked up; to start a program of Nix for it
would take longer than all else that pkgd adds to a download.
"""

import json
import re
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from nix.store import Store, call, text

BUSY_SECONDS = 1
NAR_SIZE = re.compile(r'<data key="narSize">(\d+)</data>')
CLOSURE = """
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
    """Return the bytes of all that these store paths need, themselves included.

    Raises NixError for a path that is not in the store.
    """
    size = _size_on_record(store, paths)
    return _size_by_nix(store, paths) if size is None else size


def _size_on_record(store: Store, paths: Collection[str]) -> int | None:
    """Return what the database of the machine's store says; None if it isn't there, or not all is.

    The paths may be in a store elsewhere (NIX_REMOTE), and the database may be of another make:
    both are no errors, since Nix can be asked.
    """
    state = Path(store.environ.get("NIX_STATE_DIR", "/nix/var/nix"))
    uri = f"{(state / 'db' / 'db.sqlite').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as database:
            row = database.execute(CLOSURE, [json.dumps(list(paths))]).fetchone()
    except sqlite3.Error:
        return None
    size: int | None = row and row[0]
    return size


def _size_by_nix(store: Store, paths: Collection[str]) -> int:
    # the one query that gives the sizes of a closure in one call
    graph = text(call(store, ["nix-store", "--query", "--graphml", *paths]))
    return sum(map(int, NAR_SIZE.findall(graph)))
