"""Pins: the catalogs that the host has added, each a tarball in the store that never changes.

A GC root in DATA_DIR/pins, made before the row and removed after it, keeps each pin alive. One
command at a time changes pins.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from flask import Flask, current_app, has_app_context
from sqlalchemy import delete, select, update

import event_log
import nix
import services
import task_queue
from catalogs.models import CatalogIndex, Pin
from catalogs.state import Catalogs, Place
from database import reading
from event_log import EventType
from file_lock import try_lock
from models import LIVE, AnyRow, Package, PackageStatus, Task, columns, db, insert_or_ignore, utcnow

NAME = re.compile(r"(?!.*\.drv$)[a-z0-9][a-z0-9._-]{0,63}")  # what ends in .drv is a derivation
LOCK_SECONDS = 3600
LOCK_POLL_SECONDS = 0.1
MESSAGE_LENGTH = 600

_PLACES = select(Pin.name, Pin.store_path, Pin.anchor).order_by(Pin.rank, Pin.id)
_PINS = select(*columns(Pin)).order_by(Pin.rank, Pin.id)
_TOLD = Pin.id, Pin.name, Pin.url, Pin.sha256, Pin.revision


class PinError(Exception):
    """A pin can't be added or changed; the message is one line."""

    def __init__(self, message: str) -> None:
        """Give the message, which may have come from Nix or from a catalog."""
        super().__init__(" ".join(nix.plain(message).split())[:MESSAGE_LENGTH])


@dataclass(frozen=True)
class Source:
    """Where a pin comes from; `sha256`, in Nix's base 32, is "" where any hash will do."""

    url: str
    sha256: str = ""
    report: Callable[[int, int], None] = lambda _done, _expected: None


@dataclass(frozen=True)
class Content:
    """What was fetched, how many attributes it has, or which newer Nix it wants to tell that."""

    tarball: nix.Tarball
    attributes: int | None
    warning: str = ""


@dataclass(frozen=True)
class Position:
    """A place among the catalogs, as the columns of a pin have it."""

    anchor: str | None
    rank: int


# --- Reading ---


def places(app: Flask) -> Sequence[Place]:
    """Return name, store path and anchor of each pin, by rank; also for threads of their own."""
    # A second context in a request's would take a second connection.
    context = nullcontext() if has_app_context() else app.app_context()
    with context, reading() as connection:
        return connection.execute(_PLACES).all()


def known() -> dict[str, AnyRow]:
    """Return all pins by their names."""
    with reading() as connection:
        return {pin.name: pin for pin in connection.execute(_PINS)}


def sha256(catalog: nix.Catalog) -> str | None:
    """Return the hash of a catalog; None for one that is no pin, or no longer."""
    hashes = {pin.store_path: pin.sha256 for pin in known().values()}
    return hashes.get(catalog.place)


def link(name: str) -> Path:
    """Return the path of a pin's GC root."""
    return _folder() / name


# --- Changing ---


def add(name: str, source: Source, *, is_first: bool = False, after: str | None = None) -> Content:
    """Fetch a tarball and make it a catalog: the last one, the first, or that after another.

    If that fails, nothing is left. Raises PinError.
    """
    with locked(), _telling():
        position = _position(_checked(name), is_first, after)
        with _rooted(name, source, link(name)) as content:
            is_behind = Pin.anchor.is_not_distinct_from(position.anchor), Pin.rank >= position.rank
            db.session.execute(update(Pin).where(*is_behind).values(rank=Pin.rank + 1))
            new = insert_or_ignore(Pin).values(
                name=name,
                added_at=utcnow(),
                anchor=position.anchor,
                rank=position.rank,
                **_columns(source, content),
            )
            row = db.session.execute(new.returning(*_TOLD)).one_or_none()
            if row is None:
                raise PinError(f"there is a pin {name} already")  # of another host
            _tell(EventType.CATALOG_ADDED, row)
            db.session.commit()
        return content


def change(name: str, source: Source) -> Content:
    """Put another tarball in the place of a pin, which stays as it was if that fails.

    Raises PinError.
    """
    with locked(), _telling():
        _pin(name)
        with _rooted(name, source, _next_link(name)) as content:
            changed = update(Pin).where(Pin.name == name).returning(*_TOLD)
            values = _columns(source, content) | {"added_at": utcnow()}
            row = db.session.execute(changed.values(**values)).one_or_none()
            if row is None:
                raise PinError(f"the pin {name} was removed meanwhile")
            _tell(EventType.CATALOG_UPDATED, row)
            db.session.commit()
        nix.add_root(services.get(nix.Store), content.tarball.store_path, link(name))
        _next_link(name).unlink(missing_ok=True)
        return content


def remove(name: str, *, force: bool = False) -> None:
    """Remove a pin, and end the task that indexes it.

    Raises PinError, without `force` also where an activated package came from it.
    """
    with locked(), _telling():
        _pin(name)
        active = _active_from(name)
        if active and not force:
            listed = ", ".join(active)
            raise PinError(f"activated packages came from {name} (--force removes it): {listed}")
        removed = delete(Pin).where(Pin.name == name).returning(*_TOLD)
        for row in db.session.execute(removed).all():
            _tell(EventType.CATALOG_REMOVED, row)
        db.session.commit()
        for path in (link(name), _next_link(name)):
            path.unlink(missing_ok=True)
        _end_indexing(name)


@contextmanager
def locked(seconds: float | None = None) -> Iterator[None]:
    """Let one command at a time change pins.

    Raises PinError after waiting for `seconds`, which are LOCK_SECONDS by default.
    """
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    _folder().mkdir(exist_ok=True)
    with (_folder() / ".lock").open("ab") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise PinError("another command is changing the pins: try again once it has ended")
            time.sleep(LOCK_POLL_SECONDS)
        yield


# --- Roots ---


def mend_roots() -> Iterator[str]:
    """Root each pin again that has lost its root, and say so, or how to fetch one that is gone."""
    pins, store = known(), services.get(nix.Store)
    valid = nix.valid_paths(store, [pin.store_path for pin in pins.values()])
    for name, pin in pins.items():
        if pin.store_path not in valid:
            again = f"flask catalog update {name} {pin.url} --sha256 {pin.sha256}"
            yield f"the catalog {name} is no longer in the store: fetch it again by {again}"
        elif _target(link(name)) != pin.store_path:
            nix.add_root(store, pin.store_path, link(name))
            yield f"the catalog {name} had lost its GC root"


def leftover_roots() -> list[Path]:
    """Return the roots of what is no pin, as killed commands leave them."""
    needed = {pin.store_path for pin in known().values()}
    links = (path for path in _folder().glob("*") if path.is_symlink())
    return [path for path in links if _target(path) not in needed]


def remove_leftover_roots() -> list[Path]:
    """Remove the roots of what is no pin, unless a command is about to make one; return them."""
    try:
        with locked(0):
            leftover = leftover_roots()
            for path in leftover:
                path.unlink(missing_ok=True)
            return leftover
    except PinError:
        return []


def _folder() -> Path:
    folder: Path = current_app.config["DATA_DIR"] / "pins"
    return folder


def _next_link(name: str) -> Path:
    """Return the root of what is about to take a pin's place; no pin has such a name."""
    return link(f".{name}.next")


def _target(path: Path) -> str | None:
    return str(path.readlink()) if path.is_symlink() else None


# --- Parts of a change ---


@contextmanager
def _telling() -> Iterator[None]:
    """Tell every error of Nix in one line."""
    try:
        yield
    except nix.NixError as error:
        raise PinError(str(error)) from None
    finally:
        db.session.rollback()


def _checked(name: str) -> str:
    """Return a name for a new pin. Raises PinError."""
    if not NAME.fullmatch(name):
        raise PinError(
            f"{name!r} is no name for a catalog: up to 64 of a-z, 0-9 and ._-, neither begun by"
            " one of ._- nor ended by .drv"
        )
    if any(catalog.name == name for catalog in services.get(Catalogs).in_order()):
        raise PinError(f"there is a catalog {name} already (flask catalog update changes it)")
    return name


def _pin(name: str) -> AnyRow:
    """Return a pin. Raises PinError where there is none."""
    pins = known()
    if name not in pins:
        there = ", ".join(pins) or "none"
        raise PinError(f"no catalog {name} was added; those that were: {there}")
    return pins[name]


def _position(name: str, is_first: bool, after: str | None) -> Position:
    pins = known()
    if is_first:
        return Position("", 0)
    if after is None:
        return Position(
            None, 1 + max((pin.rank for pin in pins.values() if pin.anchor is None), default=-1)
        )
    if after in pins:
        return Position(pins[after].anchor, pins[after].rank + 1)
    there = [catalog.name for catalog in services.get(Catalogs).in_order()]
    if after not in there:
        raise PinError(f"there is no catalog {after} for {name} to follow, but {', '.join(there)}")
    return Position(after, 0)


@contextmanager
def _rooted(name: str, source: Source, root: Path) -> Iterator[Content]:
    """Fetch a tarball, root it, and see whether it is a catalog; if the block fails, undo that."""
    store, tmp = services.get(nix.Store), current_app.config["DATA_DIR"] / "tmp" / "pin"
    fetched = nix.fetched(
        store,
        source.url,
        name,
        tmp=tmp,
        sha256=source.sha256,
        free_bytes=current_app.config["MIN_FREE_BYTES"],
        report=source.report,
    )
    with fetched as tarball, ExitStack() as on_exception:
        # Before the path goes, which the root would keep.
        on_exception.callback(root.unlink, missing_ok=True)
        nix.add_root(store, tarball.store_path, root)
        yield _evaluated(store, name, source, tarball)
        on_exception.pop_all()


def _evaluated(store: nix.Store, name: str, source: Source, tarball: nix.Tarball) -> Content:
    """Count the attributes of what was fetched. Raises PinError where it is no catalog."""
    path = Path(tarball.store_path)
    tree = path.parent.resolve() / path.name  # which may be a link itself
    # Not Path.resolve, which raises RuntimeError for a link that leads to itself.
    if not Path(os.path.realpath(tree / "default.nix")).is_relative_to(tree):
        raise PinError(f"{source.url} is no catalog: its default.nix leads out of the tarball")
    try:
        names = nix.names(store, nix.Catalog(name, tarball.store_path))
    except nix.NixTooOld as error:
        return Content(tarball, None, f"{name} can't be used with this Nix: {error}")
    except nix.EvaluationFailed as error:
        raise PinError(f"{source.url} is no catalog: {error}") from None
    return Content(tarball, len(names))


def _tell(kind: EventType, pin: AnyRow) -> None:
    url = event_log.bare_url(pin.url)
    data = {"url": url, "sha256": pin.sha256, "revision": pin.revision}
    event_log.add(kind, event_log.subject("catalog", pin.id, pin.name), data)


def _columns(source: Source, content: Content) -> dict[str, object]:
    return {
        "url": source.url,
        "sha256": content.tarball.sha256,
        "store_path": content.tarball.store_path,
        "revision": content.tarball.revision,
        "dated_at": content.tarball.dated_at,
    }


def _active_from(name: str) -> list[str]:
    """Return the activated packages that came from a catalog."""
    is_active = Package.catalog == name, Package.status == PackageStatus.ACTIVATED
    found = select(Package.name, Package.version).where(*is_active).order_by(Package.id)
    return [f"{one.name} {one.version}" for one in db.session.execute(found)]


def _end_indexing(name: str) -> None:
    of_pin = Task.index_id == CatalogIndex.id, CatalogIndex.catalog == name
    live = db.session.scalars(select(Task.id).where(*of_pin, Task.status.in_(LIVE))).all()
    for task_id in live:
        task_queue.request_cancel(task_id)
