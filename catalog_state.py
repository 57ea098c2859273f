"""The state of the catalogs: which there are, what they offer, which of them fail.

What they offer of a name is remembered until one of them changes.
"""

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

import errors
import nix
import signatures
from config import BUNDLED_CATALOG
from models import cause

log = logging.getLogger("pkgd.catalogs")

REMEMBERED_NAMES = 1000
EVALUATIONS = 2
WAIT_SECONDS = 20  # for a request's turn to evaluate
EVALUATION_SECONDS = 20  # for a program of Nix
SEARCH_SECONDS = 60  # for all programs of Nix that a search takes
LOOK_SECONDS = 10  # how often the catalogs are looked at for a change while somebody asks
LOOK_AGAIN_SECONDS = 60  # when one that failed is evaluated again, even if it has not changed
MESSAGE_LENGTH = 200
NOT_LOOKED_AT = "not looked at yet"


# A pin as `pins.places` reads it, and each catalog with its signature and whether it is there.
Place = Row[str, str, str | None]
State = tuple[tuple[nix.Catalog, str, bool], ...]


@dataclass(frozen=True)
class Look:
    """Which of the catalogs failed and why, in which state, and when that was found."""

    failures: dict[str, str]
    state: State
    at: float

    def is_current(self, state: State) -> bool:
        """Tell whether this still holds; what failed may work later, though no file changes."""
        is_due = self.failures and time.monotonic() >= self.at + LOOK_AGAIN_SECONDS
        return self.state == state and not is_due


class Catalogs:
    """The catalogs in order, and a cache of what they offer."""

    def __init__(
        self,
        store: nix.Store,
        configured: Sequence[str],
        allowed: nix.Allowed = nix.NOTHING_MORE,
        pins: Callable[[], Sequence[Place]] = tuple,
    ) -> None:
        """Take the setting CATALOGS, and a function that reads the pins by rank."""
        self.store = store
        self.allowed = allowed
        self._configured = tuple(configured)
        self._pins = pins
        self._paths: dict[nix.Catalog, Path | None] = {}
        self._cache: OrderedDict[str, tuple[State, nix.Offers]] = OrderedDict()
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

    def in_order(self) -> tuple[nix.Catalog, ...]:
        """Return the configured catalogs and the pins, each pin after its anchor.

        Pins whose anchor is no longer configured follow all configured catalogs.
        """
        pinned: dict[str | None, list[nix.Catalog]] = {}
        for name, store_path, anchor in self._pins():
            pinned.setdefault(anchor, []).append(nix.Catalog(name, store_path))

        found = pinned.pop("", [])
        for catalog in self.configured:
            found += [catalog, *pinned.pop(catalog.name, [])]
        last = pinned.pop(None, [])
        return tuple(chain(found, *pinned.values(), last))

    def signature_of(self, catalog: nix.Catalog) -> str:
        """Return 64 hexadecimal digits that change whenever the catalog does.

        What is in the store never changes, so that no file of a pin is looked at.
        """
        if self.store.is_store_path(catalog.place):
            return signatures.of_text(catalog.place)
        return signatures.of_files(self._path(catalog))

    def offers(self, name: str) -> nix.Offers:
        """Return what the catalogs offer of a name, from the cache while no catalog has changed.

        Raises Busy if the search takes too long, or the wait for a turn.
        """
        state = self._state()
        with self._lock:
            known = self._cache.get(name)
        if known is not None and known[0] == state:
            return known[1]

        offers = self._evaluate(name, [catalog for catalog, _, _ in state])
        if not offers.failures:
            self._remember(name, state, offers)
        return offers

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
        look = self._last_look
        if look is None:
            return f"ok, {NOT_LOOKED_AT}"
        failures = look.failures
        told = "; ".join(f"{catalog} fails: {why}" for catalog, why in failures.items())
        if not told:
            return "ok"
        return (
            told if failures.keys() >= {one.name for one, _, _ in look.state} else f"ok, but {told}"
        )

    def _state(self) -> State:
        return tuple(map(self._state_of, self.in_order()))

    def _state_of(self, catalog: nix.Catalog) -> tuple[nix.Catalog, str, bool]:
        return catalog, self.signature_of(catalog), os.path.lexists(catalog.place)

    def _path(self, catalog: nix.Catalog) -> Path | None:
        """Return where a catalog is, which is found out once."""
        if catalog not in self._paths:
            self._paths[catalog] = nix.place(self.store, catalog)
        return self._paths[catalog]

    def state_of(self, catalog: nix.Catalog) -> str:
        """Return `ok`, how a catalog fails, or that it was not looked at in its present state."""
        look = self._last_look
        if look is None or self._state_of(catalog) not in look.state:
            return NOT_LOOKED_AT
        return look.failures.get(catalog.name, "ok")

    def nix_wanted(self, catalog: nix.Catalog) -> str | None:
        """Return the oldest Nix that a catalog wants, where it says so in a file."""
        path = self._path(catalog)
        return nix.wanted(path) if path else None

    def _look_once(self) -> None:
        try:
            state = self._state()
            if self._last_look is None or not self._last_look.is_current(state):
                self._note_failures(state)
        except (nix.NixError, SQLAlchemyError) as error:  # not the fault of a catalog
            log.warning("the catalogs could not be looked at: %s", cause(error))
        finally:
            self._look_at = time.monotonic() + LOOK_SECONDS

    def _note_failures(self, state: State) -> None:
        """Evaluate each catalog; log those that have begun to fail."""
        found = nix.failing(self.store, [catalog for catalog, _, _ in state])
        failures = {each.catalog: f"{each.code}: {_short(each.message)}" for each in found}
        known = self._last_look.failures if self._last_look else {}
        for catalog, why in failures.items():
            if catalog not in known:
                log.warning("catalog %s fails: %s", catalog, why)
        self._last_look = Look(failures, state, time.monotonic())

    def _evaluate(self, name: str, catalogs: Sequence[nix.Catalog]) -> nix.Offers:
        if not self._evaluations.acquire(timeout=WAIT_SECONDS):
            raise errors.Busy(what="other searches of the catalogs are going on")
        deadline = time.monotonic() + SEARCH_SECONDS

        def check_time(*_: object) -> None:
            if time.monotonic() > deadline:
                raise errors.Busy(what="the catalogs take too long to evaluate")

        try:
            return nix.offers(
                self.store,
                catalogs,
                name,
                allowed=self.allowed,
                seconds=EVALUATION_SECONDS,
                tick=check_time,
            )
        finally:
            self._evaluations.release()

    def _remember(self, name: str, state: State, offers: nix.Offers) -> None:
        with self._lock:
            self._cache[name] = state, offers
            self._cache.move_to_end(name)
            if len(self._cache) > REMEMBERED_NAMES:
                self._cache.popitem(last=False)


def _short(message: str) -> str:
    """Return an error of Nix as one short line without control characters."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else "?" for char in line)[:MESSAGE_LENGTH]
