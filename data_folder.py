"""The data folder: which store and which database it belongs to.

The folder's GC roots and profile mean nothing beside another store, and the packages of another
database are not those that the folder keeps alive. So it remembers both, in a file without secrets,
and whoever comes with others is refused.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flask import current_app
from sqlalchemy import URL

import nix
import services
from models import db

RECORD = "belongs_to.json"
MACHINE_STORE = Path(os.environ.get("NIX_STORE_DIR", "/nix/store"))
POSTGRESQL_PORT = 5432


class NotYours(Exception):
    """The data folder can't be used with these settings; the message is one line."""


@dataclass(frozen=True)
class Belonging:
    """What a data folder belongs to.

    `store` is the store directory, and `store_dir` the setting STORE_DIR for it: "" for the
    machine's own store. A database in the folder is recorded relative to it, so that the folder can
    be moved.
    """

    store: str
    store_dir: str
    database: str

    def __str__(self) -> str:
        return f"the store {self.store} and the database {self.database}"


def configured() -> Belonging:
    """Return what the application's settings say that the folder belongs to."""
    store = services.get(nix.Store).directory
    return Belonging(
        store=str(store),
        store_dir=str(store.parent) if current_app.config["STORE_DIR"] else "",
        database=database_name(db.engine.url, current_app.config["DATA_DIR"]),
    )


def claim(*, record: bool = True) -> None:
    """Make a folder that belongs to nothing yet belong to the configured store and database.

    Without `record`, it stays without an owner. Raises NotYours where it belongs to others, or
    can't be used.
    """
    folder: Path = current_app.config["DATA_DIR"]
    wanted = configured()
    try:
        nix.make_passable(folder)
        owner = recorded(folder)
        if owner is None and (store := _store_in_use(folder)) not in (None, wanted.store):
            owner = Belonging(str(store), "", wanted.database)
        if owner is None:
            owner = _write_first(folder, wanted) if record else wanted
    except OSError as error:
        raise NotYours(f"DATA_DIR can't be used: {error}") from None

    if (owner.store, owner.database) != (wanted.store, wanted.database):
        raise NotYours(
            f"DATA_DIR {folder} belongs to {owner}, but the settings name {wanted}: "
            "correct the settings, or run flask adopt if it is to belong to these"
        )


def adopt(owner: Belonging) -> None:
    """Make the folder belong to this store and database, whatever it belonged to before."""
    folder: Path = current_app.config["DATA_DIR"]
    nix.make_passable(folder)
    unnamed = _unnamed(folder, owner)
    try:
        unnamed.rename(folder / RECORD)
    except OSError:
        unnamed.unlink()
        raise


def recorded(folder: Path) -> Belonging | None:
    """Return what the folder's record says; None for a folder without one. Raises NotYours."""
    path = folder / RECORD
    try:
        return _parsed(path.read_text())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise NotYours(f"{path} should be a file, but is a folder: move it away") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise NotYours(f"{path} can't be read ({error}): flask adopt writes it anew") from None


def _parsed(text: str) -> Belonging:
    """Return what a record says. Raises ValueError, TypeError, KeyError or RecursionError."""
    found = json.loads(text)
    # fsencode: other types than text, and halves of UTF-16 pairs, are in no path.
    named = {name: os.fsencode(found[name]).decode() for name in Belonging.__dataclass_fields__}
    paths = [named["store"], *filter(None, [named["store_dir"]])]
    if "\0" in "".join(named.values()) or not all(map(os.path.isabs, paths)):
        raise ValueError("it names no store")
    return Belonging(**named)


def remembered_store_dir(folder: Path) -> Path | None:
    """Return the STORE_DIR of the private store that a folder belongs to; None if it has none.

    A folder without a record tells by the store paths that its links lead to.
    """
    with suppress(NotYours):
        owner = recorded(folder)
        if owner is not None:
            return Path(owner.store_dir) if owner.store_dir else None
    store = Path(_store_in_use(folder) or MACHINE_STORE)
    is_private = store != MACHINE_STORE and (store.parent / "var" / "nix").is_dir()
    return store.parent if is_private else None


def database_name(url: URL, folder: Path) -> str:
    """Return which database a URL names: no user, no password, and no file's other spellings."""
    if url.get_backend_name() == "sqlite":
        path, folder = Path(url.database or ":memory:").resolve(), folder.resolve()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    host = url.host or url.query.get("host") or ""
    port = url.port or url.query.get("port") or POSTGRESQL_PORT
    return f"postgresql://{host}:{port}/{url.database or ''}"


def _store_in_use(folder: Path) -> str | None:
    """Return the store directory to which most of the folder's GC roots and generations lead."""
    stores = Counter(target.parent for target in _targets(folder) if target.is_absolute())
    return str(stores.most_common(1)[0][0]) if stores else None


def _targets(folder: Path) -> Iterator[Path]:
    for pattern in ("roots/*-*", "profile-*-link", "profiles/*-link"):
        for link in folder.glob(pattern):
            with suppress(OSError):
                yield link.readlink()


def _write_first(folder: Path, owner: Belonging) -> Belonging:
    """Record the folder's first owner, unless another process was faster; return the owner."""
    unnamed = _unnamed(folder, owner)
    # Unlike a rename, a link never replaces the record of a process that was faster.
    with suppress(FileExistsError):
        (folder / RECORD).hardlink_to(unnamed)
    unnamed.unlink()
    return recorded(folder) or owner


def _unnamed(folder: Path, owner: Belonging) -> Path:
    """Write a record, readable by us alone, under a name of its own."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{RECORD}.")
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(owner), file)
        file.flush()
        os.fsync(descriptor)
    return Path(name)
