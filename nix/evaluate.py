"""Evaluation: what the catalogs have, and their versions of a name, as resolve.nix finds them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nix.answers import read_answer
from nix.errors import (
    EvaluationFailed,
    FetchFailed,
    NixCrashed,
    NixError,
    NixTooOld,
    TimedOut,
)
from nix.internal_json import Progress, Tick, ignore
from nix.near import near_names
from nix.process import NORMAL, Heard, Priority, run
from nix.refusals import thrown_refusal
from nix.requirement import unmet
from nix.store import CALL_SECONDS, DOWNLOAD_OPTIONS, Store, find_channel, output
from nix.store import version as nix_version
from nix.versions import is_prerelease, order, semantic

RESOLVE = Path(__file__).resolve().parent / "resolve.nix"
RESOLVING = Progress(0, 0, "resolving")

# What is known of the versions of a name, by catalog: such answers as resolve.nix gives.
Known = Mapping[str, Sequence[dict[str, Any]]]

# By catalog, the attributes of a name of which it is known that they can't be instantiated.
Avoided = Mapping[str, Sequence[str]]

# The errors that a faulty catalog causes; they must not hide what the other catalogs have.
CATALOG_FAULTS = (EvaluationFailed, FetchFailed, NixCrashed, NixTooOld, TimedOut)


@dataclass(frozen=True)
class Catalog:
    """A catalog: what it is called, and its place, a path or a channel's <name>."""

    name: str
    place: str


@dataclass(frozen=True)
class Allowed:
    """What nixpkgs may offer beyond its rules; `insecure` lists names with versions."""

    unfree: bool = False
    broken: bool = False
    insecure: tuple[str, ...] = ()


NOTHING_MORE = Allowed()


@dataclass(frozen=True)
class Offer:
    """A version that a catalog has, as it spells it, and why it isn't to be had, if it isn't.

    The reason is one of nix.errors.REFUSALS, or `shadowed`: another spelling in the same catalog
    stands for the same version, and comes first. The message is that of a download that failed, or
    would, where that is known.
    """

    version: str
    spelled: str
    catalog: str
    attr: str
    reason: str | None = None
    description: str | None = None
    message: str | None = None

    @property
    def prerelease(self) -> bool:
        """Whether the words of its spelling make it a pre-release."""
        return is_prerelease(self.spelled)

    @property
    def available(self) -> bool:
        """Whether a download of this version gets it."""
        return self.reason is None


@dataclass(frozen=True)
class CatalogFailure:
    """A catalog that could not be asked, with code and message of the error."""

    catalog: str
    code: str
    message: str
    reason: str | None = None


@dataclass(frozen=True)
class Offers:
    """The versions of a name, newest first; similar names if it has none; catalogs that failed.

    `kind` is the kind of value that has the name, if that is no package.
    """

    versions: tuple[Offer, ...] = ()
    near: tuple[str, ...] = ()
    kind: str = ""
    failures: tuple[CatalogFailure, ...] = ()


@dataclass(frozen=True)
class Query:
    """A name and a version to look for; `tick` is called while Nix evaluates.

    `heard` is called with each batch of lines that Nix writes to stderr.
    """

    store: Store
    name: str
    version: str
    allowed: Allowed
    seconds: float
    tick: Tick
    priority: Priority = NORMAL
    cpu_seconds: float = 0  # 0 for any
    is_read_only: bool = False  # writes no derivation to the store
    avoided: Avoided = field(default_factory=dict)
    heard: Heard = lambda _: None

    def ask(self, attribute: str, *catalogs: Catalog, **more: str) -> Any:
        """Evaluate an attribute of resolve.nix over `catalogs`. Raises CATALOG_FAULTS.

        `more` are other arguments of resolve.nix.
        """
        # Nix ignores TERM while it evaluates, and has nothing to clean up: no grace.
        done = run(
            [*self._nix_instantiate(catalogs, more), "--attr", attribute],
            environ=self.store.environ,
            seconds=self.seconds,
            priority=self.priority,
            cpu_seconds=self.cpu_seconds,
            grace_seconds=0,
            heard=self._hear,
        )
        try:
            return read_answer(attribute, output(done, EvaluationFailed))
        except EvaluationFailed as error:
            raise self._explained(error, catalogs) from None

    def _hear(self, lines: list[bytes]) -> None:
        self.heard(lines)
        self.tick(b"", RESOLVING)

    def ask_each(
        self, attribute: str, catalogs: Iterable[Catalog]
    ) -> tuple[list[Any], dict[str, NixError]]:
        """Ask each catalog alone; return the answers, and the error of each faulty catalog."""
        answers: list[Any] = []
        failures: dict[str, NixError] = {}
        for catalog in catalogs:
            try:
                answers.append(self.ask(attribute, catalog))
            except CATALOG_FAULTS as error:
                failures[catalog.name] = error
        return answers, failures

    def _explained(self, error: EvaluationFailed, catalogs: Sequence[Catalog]) -> NixError:
        """Return NixTooOld if that is behind an error of an evaluation, else the error."""
        paths = (place(self.store, catalog) for catalog in catalogs if len(catalogs) == 1)
        sentence = unmet(str(error), list(filter(None, paths)), nix_version(self.store))
        return NixTooOld(sentence) if sentence else error

    def _nix_instantiate(self, catalogs: Sequence[Catalog], more: Mapping[str, str]) -> list[str]:
        return [
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "--readonly-mode" if self.is_read_only else "--read-write-mode",
            *("--option", "allow-import-from-derivation", "false"),
            *DOWNLOAD_OPTIONS,
            str(RESOLVE),
            *("--argstr", "catalogs", json.dumps([asdict(one) for one in catalogs])),
            *("--argstr", "name", self.name),
            *("--argstr", "version", self.version),
            *("--argstr", "allowed", json.dumps(asdict(self.allowed))),
            *("--argstr", "avoided", json.dumps(dict(self.avoided))),
            *chain.from_iterable(("--argstr", name, value) for name, value in more.items()),
        ]


def offers(
    store: Store,
    catalogs: Sequence[Catalog],
    name: str,
    *,
    known: Known = MappingProxyType({}),
    allowed: Allowed = NOTHING_MORE,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Offers:
    """Return every version of `name` that the catalogs have; if there is none, similar names.

    The catalogs in `known` are not asked, unless no catalog has a version: then whatever else they
    have of that name is to be told.
    """
    query = Query(store, name, "", allowed, seconds, tick)
    if not any(known.values()):
        known = {}
    unknown = [catalog for catalog in catalogs if catalog.name not in known]
    failures: dict[str, NixError] = {}
    try:
        answers = [query.ask("offers", *unknown)] if unknown else []
    except CATALOG_FAULTS:
        answers, failures = query.ask_each("offers", unknown)

    versions = newest_first(
        _in_order(catalogs, *(each["versions"] for each in answers), *known.values())
    )
    if not versions and any(answer["throws"] for answer in answers):
        _, thrown = query.ask_each("answer", unknown)
        failures |= {
            catalog: thrown_refusal(name, error) or error for catalog, error in thrown.items()
        }
    return Offers(
        versions,
        near=() if versions or failures else names_near(query, catalogs),
        kind=kind_of(kind for answer in answers for kind in answer["others"]),
        failures=_told(failures),
    )


def failing(
    store: Store, catalogs: Sequence[Catalog], *, seconds: float = CALL_SECONDS
) -> tuple[CatalogFailure, ...]:
    """Evaluate the names of each catalog; return those that fail."""
    query = Query(store, "", "", NOTHING_MORE, seconds, ignore)
    return _told(query.ask_each("names", catalogs)[1])


def names(store: Store, catalog: Catalog, *, seconds: float = CALL_SECONDS) -> tuple[str, ...]:
    """Return the names of a catalog's attributes. Raises CATALOG_FAULTS, NixTooOld among them."""
    return tuple(Query(store, "", "", NOTHING_MORE, seconds, ignore).ask("names", catalog))


def _told(failures: dict[str, NixError]) -> tuple[CatalogFailure, ...]:
    return tuple(
        CatalogFailure(catalog, error.code, str(error), getattr(error, "reason", None))
        for catalog, error in failures.items()
    )


def place(store: Store, catalog: Catalog) -> Path | None:
    """Return where a catalog is; None for a channel that is not there."""
    if catalog.place.startswith("<"):
        return find_channel(store, catalog.place.strip("<>"))
    return Path(catalog.place)


def _in_order(
    catalogs: Sequence[Catalog], *found: Sequence[dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    """Return all that was found, by the order of the catalogs."""
    places = {catalog.name: place for place, catalog in enumerate(catalogs)}
    return sorted(chain(*found), key=lambda offer: places[offer["catalog"]])


def newest_first(versions: Iterable[dict[str, Any]]) -> tuple[Offer, ...]:
    """Return the offers in order, once for each spelling in a catalog.

    Of several attributes of one version in a catalog, the first that may be had is the one to be
    had. Where its spelling is another, those that follow are shadowed.
    """
    found: dict[tuple[str, str], Offer] = {}
    taken: dict[tuple[str, str], str] = {}
    for offer in versions:
        catalog, spelled, reason = offer["catalog"], offer["spelled"], offer["reason"]
        version = semantic(spelled)
        taken_as = taken.get((catalog, version))
        if taken_as is None and reason is None:
            taken[catalog, version] = spelled
            found.pop((catalog, spelled), None)  # refused as another attribute
        shadowed = "shadowed" if taken_as not in (None, spelled) else reason
        told = offer.get("description"), offer.get("message")
        shown = Offer(version, spelled, catalog, offer["attr"], shadowed, *told)
        found.setdefault((catalog, spelled), shown)
    return tuple(sorted(found.values(), key=lambda offer: order(offer.spelled), reverse=True))


def kind_of(others: Iterable[str]) -> str:
    """Return the kind of the first attribute of a name that is no package; "" if there is none."""
    return next((kind for kind in others if kind != "error"), "")


def names_near(query: Query, catalogs: Sequence[Catalog]) -> tuple[str, ...]:
    """Return the names in the catalogs that are most similar to the one asked for."""
    names, _ = query.ask_each("names", catalogs)
    return near_names(query.name, {name for each in names for name in each})
