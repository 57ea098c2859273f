"""Catalogs: which versions of a name they offer, remembered until one of them changes."""

import logging
import math
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import errors
import nix
import ranges
import services
from api import Blueprint
from config import BUNDLED_CATALOG
from fields import NAME_PATTERN
from schemas import CatalogQuerySchema, CatalogSchema

log = logging.getLogger("pkgd.catalogs")

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/v1", description="Which versions there are"
)

REMEMBERED_NAMES = 1000
WATCHED_FILES = 500
EVALUATIONS = 2
WAIT_SECONDS = 20  # for a request's turn to evaluate
EVALUATION_SECONDS = 20  # for a program of Nix
SEARCH_SECONDS = 60  # for all programs of Nix that a search takes
# In a large checkout or channel, at least one of these changes with every update.
LOOK_SECONDS = 10  # how often the catalogs are looked at for a change while somebody asks
LOOK_AGAIN_SECONDS = 60  # when one that failed is evaluated again, even if it has not changed
MESSAGE_LENGTH = 200
LANDMARKS = ("", "default.nix", ".version", ".git/HEAD", ".git/index")

Signature = tuple[tuple[str, int, int, int], ...]


@blueprint.get("/catalog/<name>")
@blueprint.arguments(CatalogQuerySchema, location="query")
@blueprint.response(200, CatalogSchema)
@blueprint.refuses(errors.NameNotFound, errors.UrlTooLong, errors.NixFailed, errors.Busy)
def show(query: dict[str, Any], name: str) -> Any:
    """Show the versions of a name that the catalogs offer, newest first.

    `version` leaves only an exact version, also as a catalog spells it, or those in a range: ^1.2,
    ~1.2, >=1,<2. If there is none, the list is empty.
    """
    offers = nix.Offers()
    if re.match(NAME_PATTERN, name):
        offers = services.get(Catalogs).offers(name)
    if not offers.versions and not offers.failures:
        raise errors.NameNotFound(
            detail=nix.NameUnknown(name, offers.near, offers.kind), near=offers.near
        )
    versions: Sequence[nix.Offer] = offers.versions
    if "version" in query:
        versions = ranges.select(versions, query["version"])
    return {"name": name, "versions": versions, "failures": offers.failures}


@dataclass(frozen=True)
class Look:
    """Which catalogs failed and why, in which state of their files, and when that was found."""

    failures: dict[str, str]
    signature: Signature
    at: float

    def is_current(self, signature: Signature) -> bool:
        """Tell whether this still holds; what failed may work later, though no file changes."""
        is_due = self.failures and time.monotonic() >= self.at + LOOK_AGAIN_SECONDS
        return self.signature == signature and not is_due


class Catalogs:
    """The configured catalogs, and a cache of what they offer."""

    def __init__(
        self,
        store: nix.Store,
        configured: Sequence[str],
        allowed: nix.Allowed = nix.NOTHING_MORE,
    ) -> None:
        self.store = store
        self.allowed = allowed
        self._configured = tuple(configured)
        self._cache: OrderedDict[str, tuple[Signature, nix.Offers]] = OrderedDict()
        self._lock = threading.Lock()
        self._evaluations = threading.BoundedSemaphore(EVALUATIONS)
        self._look_at = 0.0
        self._last_look: Look | None = None

    @cached_property
    def configured(self) -> tuple[nix.Catalog, ...]:
        """The catalogs of the setting CATALOGS, in order, each named as it is there.

        By default <nixpkgs> where Nix finds one, else the bundled demonstration catalog. Raises
        nix.NixMissing.
        """
        names = self._configured
        if not names:
            has_nixpkgs = nix.find_channel(self.store, "nixpkgs") is not None
            names = ("<nixpkgs>",) if has_nixpkgs else (str(BUNDLED_CATALOG),)
        return tuple(nix.Catalog(name, name) for name in names)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The files or folders of the catalogs that exist."""
        found = (nix.place(self.store, catalog) for catalog in self.configured)
        return tuple(path for path in found if path is not None)

    def offers(self, name: str) -> nix.Offers:
        """Return what the catalogs offer of a name, from the cache while no catalog has changed.

        Raises Busy if the search takes too long, or the wait for a turn.
        """
        signature = self.signature()
        with self._lock:
            known = self._cache.get(name)
        if known is not None and known[0] == signature:
            return known[1]

        offers = self._evaluate(name)
        if not offers.failures:
            self._remember(name, signature, offers)
        return offers

    def signature(self) -> Signature:
        """Return a value that changes whenever a catalog does: the state of its files.

        Of a large tree, such as nixpkgs, only the landmarks are looked at.
        """
        return tuple(state for path in self.paths for state in _states(path))

    def look(self) -> None:
        """Find out in the background which catalogs fail, unless that is known or going on."""
        with self._lock:
            if time.monotonic() < self._look_at:
                return
            self._look_at = math.inf
        threading.Thread(target=self._look_once, name="catalogs", daemon=True).start()

    def state(self) -> str:
        """Return how all catalogs fail; `ok` while one works, with those that don't."""
        self.look()
        if self._last_look is None:
            return "ok, not looked at yet"
        failures = self._last_look.failures
        told = "; ".join(f"{catalog} fails: {why}" for catalog, why in failures.items())
        if not told:
            return "ok"
        return (
            told if failures.keys() >= {one.name for one in self.configured} else f"ok, but {told}"
        )

    def _look_once(self) -> None:
        try:
            signature = self.signature()
            if self._last_look is None or not self._last_look.is_current(signature):
                self._note_failures(signature)
        except nix.NixError as error:  # not the fault of a catalog
            log.warning("the catalogs could not be looked at: %s", error)
        finally:
            self._look_at = time.monotonic() + LOOK_SECONDS

    def _note_failures(self, signature: Signature) -> None:
        """Evaluate each catalog; log those that have begun to fail."""
        found = nix.failing(self.store, self.configured)
        failures = {each.catalog: f"{each.code}: {_short(each.message)}" for each in found}
        known = self._last_look.failures if self._last_look else {}
        for catalog, why in failures.items():
            if catalog not in known:
                log.warning("catalog %s fails: %s", catalog, why)
        self._last_look = Look(failures, signature, time.monotonic())

    def _evaluate(self, name: str) -> nix.Offers:
        if not self._evaluations.acquire(timeout=WAIT_SECONDS):
            raise errors.Busy(what="other searches of the catalogs are going on")
        deadline = time.monotonic() + SEARCH_SECONDS

        def check_time(*_: object) -> None:
            if time.monotonic() > deadline:
                raise errors.Busy(what="the catalogs take too long to evaluate")

        try:
            return nix.offers(
                self.store,
                self.configured,
                name,
                allowed=self.allowed,
                seconds=EVALUATION_SECONDS,
                tick=check_time,
            )
        finally:
            self._evaluations.release()

    def _remember(self, name: str, signature: Signature, offers: nix.Offers) -> None:
        with self._lock:
            self._cache[name] = signature, offers
            self._cache.move_to_end(name)
            if len(self._cache) > REMEMBERED_NAMES:
                self._cache.popitem(last=False)


def _short(message: str) -> str:
    """Return an error of Nix as one short line without control characters."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else "?" for char in line)[:MESSAGE_LENGTH]


def _states(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield path, inode, time and size of each file that is watched."""
    top = Path(os.path.realpath(path))
    if not os.path.exists(top):
        return

    folder = top if top.is_dir() else top.parent
    files = list(islice(_files(folder), WATCHED_FILES + 1))
    if len(files) > WATCHED_FILES:
        files = [str(top), *(str(folder / landmark) for landmark in LANDMARKS)]

    for file in files:
        try:
            status = os.stat(file)
        except OSError:  # gone meanwhile, or not for us
            continue
        yield file, status.st_ino, status.st_mtime_ns, status.st_size


def _files(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        yield top
        for name in names:
            yield os.path.join(top, name)
