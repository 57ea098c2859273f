"""The state of the catalogs: which there are, what they offer, which of them fail.

What they offer of a name is remembered until one of them changes.
"""

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

import errors
import nix
from catalogs import indexes as catalog_indexes
from catalogs import offers as catalog_offers
from config import BUNDLED_CATALOG
from models import cause
from nix import signature

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

T = TypeVar("T")


# A pin as `pins.places` reads it, and each catalog with its signature and whether it is there.
Place = Row[str, str, str | None]
Snapshot = tuple[tuple[nix.Catalog, str, bool], ...]


@dataclass(frozen=True)
class Look:
    """Which of the catalogs failed and why, in which state, and when that was found."""

    failures: dict[str, str]
    state: Snapshot
    at: float

    def is_current(self, state: Snapshot) -> bool:
        """Tell whether this still holds; what failed may work later, though no file changes."""
        is_due = self.failures and time.monotonic() >= self.at + LOOK_AGAIN_SECONDS
        return self.state == state and not is_due


@dataclass(frozen=True)
class Verified:
    """The derivation of a version by the verification of an index, which was begun `since`."""

    found: nix.Resolution
    since: datetime


@dataclass(frozen=True)
class Choice:
    """Where to look for a version: the catalogs, the best one first; which attributes to avoid.

    `verified` is what is known already, of a catalog in the store alone: that never changes.
    """

    catalogs: list[nix.Catalog]
    avoided: nix.Avoided
    verified: Verified | None = None


class Catalogs:
    """The catalogs in order, and a cache of what they offer."""

    def __init__(
        self,
        store: nix.Store,
        configured: Sequence[str],
        allowed: nix.Allowed = nix.NOTHING_MORE,
        pins: Callable[[], Sequence[Place]] = tuple,
        index_sets: Sequence[str] | None = None,
    ) -> None:
        """Take the setting CATALOGS, and a function that reads the pins by rank.

        `index_sets` is the setting INDEX_SETS, or None where there is no index.
        """
        self.store = store
        self.allowed = allowed
        self._configured = tuple(configured)
        self._pins = pins
        self._index_sets = index_sets
        self._names: dict[nix.Catalog, tuple[str, list[str]]] = {}
        self._paths: dict[nix.Catalog, Path | None] = {}
        self._cache: OrderedDict[str, tuple[object, nix.Offers]] = OrderedDict()
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
            return signature.of_text(catalog.place)
        return signature.of_files(self._path(catalog))

    def offers(self, name: str) -> nix.Offers:
        """Return what the catalogs offer of a name: by their indexes where that is known.

        Else they are evaluated, and what they say is remembered while no catalog has changed.
        Raises Busy if the search takes too long, or the wait for a turn.
        """
        state = self._state()
        indexes = self._indexes(state)
        with self._lock:
            remembered = self._cache.get(name)
        if remembered is not None and remembered[0] == (state, indexes):
            return remembered[1]

        known = catalog_offers.known(indexes, name)
        catalogs = [catalog for catalog, _, _ in state]
        ask = partial(
            nix.offers,
            self.store,
            catalogs,
            name,
            known=known,
            allowed=self.allowed,
            seconds=EVALUATION_SECONDS,
        )
        if known.keys() >= {catalog.name for catalog in catalogs} and any(known.values()):
            return ask()
        offers = self._evaluate(lambda tick: ask(tick=tick))
        if not offers.failures:
            self._remember(name, (state, indexes), offers)
        return offers

    def states(self) -> list[catalog_indexes.State]:
        """Return the state of each catalog, in order, by which its index is known."""
        return self._index_states(self._state())

    def standings(self) -> dict[str, catalog_indexes.Standing]:
        """Return how the index of each catalog stands; nothing where there are no indexes."""
        return {} if self._index_sets is None else catalog_indexes.standings(self.states())

    def current_indexes(self) -> dict[str, int]:
        """Return the id of each catalog's index that is finished, and of its present state."""
        return self._indexes(self._state())

    def newest_indexes(self, catalogs: Sequence[nix.Catalog]) -> dict[str, int]:
        """Return the id of each catalog's newest index, be it current or not."""
        return {} if self._index_sets is None else catalog_indexes.newest(catalogs)

    def best_for(self, name: str, version: str) -> Choice:
        """Return the catalogs in order, but first the one that has the version by their indexes.

        All catalogs before it must be indexed, too. What can't be had is to be avoided.
        """
        return next(self.best_for_each([(name, version)]))

    def best_for_each(self, wanted: Iterable[tuple[str, str]]) -> Iterator[Choice]:
        """Yield the same for each name with a version, by one look at the catalogs."""
        state = self._state()
        indexes = self._indexes(state)
        catalogs = [catalog for catalog, _, _ in state]
        for name, version in wanted:
            yield self._best(catalogs, catalog_offers.known(indexes, name), version)

    def _best(self, catalogs: list[nix.Catalog], known: nix.Known, version: str) -> Choice:
        """Return the best choice for a version, given what is known of its name."""
        avoided = {
            catalog: [one["attr"] for one in offers if one["reason"] is not None]
            for catalog, offers in known.items()
        }
        for catalog in catalogs:
            offers = known.get(catalog.name)
            if offers is None:
                break
            free = (one for one in offers if one["reason"] is None)
            found = next((one for one in free if nix.semantic(one["spelled"]) == version), None)
            if found is not None:
                ordered = [catalog, *(other for other in catalogs if other != catalog)]
                return Choice(ordered, avoided, self._verified(catalog, found))
        return Choice(catalogs, avoided)

    def _verified(self, catalog: nix.Catalog, found: dict[str, Any]) -> Verified | None:
        """Return the derivation of an offer, if its catalog never changes and it was verified."""
        if found["drv_path"] is None or not self.store.is_store_path(catalog.place):
            return None
        where = {key: found[key] for key in ("attr", "pname", "spelled", "drv_path")}
        resolution = nix.Resolution(catalog=catalog.name, outputs=tuple(found["outputs"]), **where)
        return Verified(resolution, found["since"])

    def names(self, catalog: nix.Catalog) -> list[str]:
        """Return the names in a catalog by evaluation, remembered until it changes.

        There are none while it fails. Raises Busy if it takes too long.
        """
        signature = self.signature_of(catalog)
        remembered = self._names.get(catalog)
        if remembered is None or remembered[0] != signature:
            remembered = signature, self._evaluate(partial(self._read_names, catalog))
            self._names[catalog] = remembered
        return remembered[1]

    def _read_names(self, catalog: nix.Catalog, tick: nix.Tick) -> list[str]:
        try:
            survey = nix.Survey(self.store, catalog, seconds=EVALUATION_SECONDS, tick=tick)
            return survey.names()
        except nix.CATALOG_FAULTS as error:
            log.warning(
                "the names in catalog %s can't be read: %s", catalog.name, _short(str(error))
            )
            return []

    def _index_states(self, state: Snapshot) -> list[catalog_indexes.State]:
        sets = self._index_sets or ()
        return [
            catalog_indexes.state(catalog, signature, self.allowed, sets)
            for catalog, signature, _ in state
        ]

    def _indexes(self, state: Snapshot) -> dict[str, int]:
        if self._index_sets is None:
            return {}
        return catalog_indexes.current(self._index_states(state))

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

    def _state(self) -> Snapshot:
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

    def _note_failures(self, state: Snapshot) -> None:
        """Evaluate each catalog; log those that have begun to fail."""
        found = nix.failing(self.store, [catalog for catalog, _, _ in state])
        failures = {each.catalog: f"{each.code}: {_short(each.message)}" for each in found}
        known = self._last_look.failures if self._last_look else {}
        for catalog, why in failures.items():
            if catalog not in known:
                log.warning("catalog %s fails: %s", catalog, why)
        self._last_look = Look(failures, state, time.monotonic())

    def _evaluate(self, ask: Callable[[nix.Tick], T]) -> T:
        """Return what an evaluation answers. Raises Busy past the bounds of time."""
        if not self._evaluations.acquire(timeout=WAIT_SECONDS):
            raise errors.Busy(what="other searches of the catalogs are going on")
        deadline = time.monotonic() + SEARCH_SECONDS

        def check_time(*_: object) -> None:
            if time.monotonic() > deadline:
                raise errors.Busy(what="the catalogs take too long to evaluate")

        try:
            return ask(check_time)
        finally:
            self._evaluations.release()

    def _remember(self, name: str, state: object, offers: nix.Offers) -> None:
        with self._lock:
            self._cache[name] = state, offers
            self._cache.move_to_end(name)
            if len(self._cache) > REMEMBERED_NAMES:
                self._cache.popitem(last=False)


# --- Messages ---


def _short(message: str) -> str:
    """Return an error of Nix as one short line without control characters."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else "?" for char in line)[:MESSAGE_LENGTH]
