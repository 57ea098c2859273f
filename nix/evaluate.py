"""Evaluation: what the catalogs have under a name, as resolve.nix finds it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from semver import Version

from nix.answers import read_answer
from nix.errors import (
    EvaluationFailed,
    FetchFailed,
    NameUnknown,
    NixCrashed,
    NixError,
    NixKilled,
    NixTooOld,
    Refused,
    TimedOut,
    VersionUnavailable,
)
from nix.internal_json import Progress, Tick, ignore
from nix.near import near_names
from nix.process import scratch
from nix.refusals import refusal, thrown_refusal
from nix.requirement import unmet
from nix.store import CALL_SECONDS, DOWNLOAD_OPTIONS, Store, call, find_channel, output
from nix.store import version as nix_version
from nix.versions import distance, is_prerelease, order, semantic

RESOLVE = Path(__file__).resolve().parent / "resolve.nix"
RESOLVING = Progress(0, 0, "resolving")
LISTED_VERSIONS = 10

# What is known of the versions of a name, by catalog: such answers as resolve.nix gives.
Known = Mapping[str, Sequence[dict[str, Any]]]

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
class Resolution:
    """The derivation that a name and a version stand for, and its outputs to install."""

    catalog: str
    attr: str
    pname: str
    spelled: str
    drv_path: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Offer:
    """A version that a catalog has, as it spells it, and why it isn't to be had, if it isn't.

    The reason is one of nix.errors.REFUSALS, or `shadowed`: another spelling in the same catalog
    stands for the same version, and comes first.
    """

    version: str
    spelled: str
    catalog: str
    attr: str
    reason: str | None = None
    description: str | None = None

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
    """A name and a version to look for; `tick` is called while Nix evaluates."""

    store: Store
    name: str
    version: str
    allowed: Allowed
    seconds: float
    tick: Tick
    niceness: int = 0

    def ask(self, attribute: str, *catalogs: Catalog, **more: str) -> Any:
        """Evaluate an attribute of resolve.nix over `catalogs`. Raises CATALOG_FAULTS.

        `more` are other arguments of resolve.nix.
        """
        # Nix ignores TERM while it evaluates, and has nothing to clean up: no grace.
        done = call(
            self.store,
            [*self._nix_instantiate(catalogs, more), "--attr", attribute],
            seconds=self.seconds,
            niceness=self.niceness,
            grace_seconds=0,
            beat=lambda: self.tick(b"", RESOLVING),
        )
        try:
            return read_answer(attribute, output(done, EvaluationFailed))
        except EvaluationFailed as error:
            raise self._explained(error, catalogs) from None

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
            "--read-write-mode",
            *("--option", "allow-import-from-derivation", "false"),
            *DOWNLOAD_OPTIONS,
            str(RESOLVE),
            *("--argstr", "catalogs", json.dumps([asdict(one) for one in catalogs])),
            *("--argstr", "name", self.name),
            *("--argstr", "version", self.version),
            *("--argstr", "allowed", json.dumps(asdict(self.allowed))),
            *chain.from_iterable(("--argstr", name, value) for name, value in more.items()),
        ]


def resolve(
    store: Store,
    catalogs: Sequence[Catalog],
    name: str,
    version: str,
    *,
    tmp: Path,
    allowed: Allowed = NOTHING_MORE,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Resolution:
    """Find the first catalog that provides `name` in `version`, and instantiate the derivation.

    A catalog that fails is left out, with a line in the log, as long as another one has the
    package; so is one that refuses it. Raises NameUnknown, VersionUnavailable, Refused,
    EvaluationFailed, NixTooOld.
    """
    with scratch(tmp) as folder:
        query = Query(store.with_tmp(folder), name, version, allowed, seconds, tick)
        try:
            answer = query.ask("answer", *catalogs)
        except CATALOG_FAULTS:
            answer = _answer_of_each(query, catalogs)

        if "refused" in answer:
            raise _refusal(answer["refused"])
        if "found" not in answer:
            raise _not_found(query, catalogs, answer["offers"])
    found = answer["found"]
    return Resolution(
        catalog=found["catalog"],
        attr=found["attr"],
        pname=found["pname"],
        spelled=found["spelled"],
        drv_path=found["drvPath"],
        outputs=tuple(found["outputs"]),
    )


def _answer_of_each(query: Query, catalogs: Sequence[Catalog]) -> Any:
    """Ask each catalog alone, since one of them fails; return the first answer with a package.

    A refusal is the answer if no other catalog has the package.
    """
    offers: dict[str, list[Any]] = {"versions": [], "others": []}
    failures: dict[str, NixError] = {}
    refused = killed = None
    for catalog in catalogs:
        try:
            answer = query.ask("answer", catalog)
        except CATALOG_FAULTS as error:
            failures[catalog.name], has_package = _reason(query, catalog, error)
            killed = error if isinstance(error, NixKilled) else killed
            if has_package and refused is None:
                raise _with_all(failures, failures[catalog.name]) from None
            query.tick(f"pkgd: left out catalog {catalog.name}: {error}\n".encode(), RESOLVING)
            continue

        if "found" in answer:
            return answer
        if "refused" in answer:
            refused = refused or answer
            continue
        for key, found in offers.items():
            found += answer["offers"][key]

    if killed is not None:  # by the host: that catalog may well have the package
        raise killed
    if refused is not None:
        return refused
    if failures:
        raise _with_all(failures, _most_helpful(failures.values()))
    return {"offers": offers}


def _reason(query: Query, catalog: Catalog, error: NixError) -> tuple[NixError, bool]:
    """Return what the error of a catalog comes to, and whether the catalog has the package."""
    answers: list[Any] = []
    if isinstance(error, EvaluationFailed):
        answers, _ = query.ask_each("offers", [catalog])
    for answer in answers:
        if any(semantic(offer["spelled"]) == query.version for offer in answer["versions"]):
            return refusal(error) or error, True
        if answer["throws"] and not answer["versions"]:
            return thrown_refusal(query.name, error) or error, False
    return error, False


def _most_helpful(errors: Iterable[NixError]) -> NixError:
    """Return the first error of the kind that can most be helped."""
    kinds = (FetchFailed, NixTooOld, Refused)
    helpful = [error for error in errors if isinstance(error, kinds)]
    helpful.sort(key=lambda error: kinds.index(type(error)))
    return helpful[0] if helpful else EvaluationFailed()


def _with_all(failures: dict[str, NixError], error: NixError) -> NixError:
    """Return an error with the messages of all catalogs that failed."""
    listed = "\n".join(f"catalog {catalog}: {each}" for catalog, each in failures.items())
    if isinstance(error, FetchFailed):
        return FetchFailed(error.fault, listed)
    error.args = (listed,)
    return error


def _refusal(offer: dict[str, str]) -> Refused:
    """Return the error for a package that its catalog has, and refuses by a rule."""
    error = Refused(f"{offer['attr']} {offer['spelled']}".strip(), offer["reason"])
    if offer["reason"] == "insecure" and offer["fullName"]:
        error.hint += f", as {offer['fullName']}"
    error.catalog, error.attr, error.spelled = offer["catalog"], offer["attr"], offer["spelled"]
    return error


def _not_found(query: Query, catalogs: Sequence[Catalog], offers: dict[str, Any]) -> NixError:
    """Return the error for a package that no catalog has, with what there is instead."""
    name, version = query.name, query.version
    versions = _newest_first(offers["versions"])
    if not versions:
        return NameUnknown(name, _near_names(query, catalogs), _kind(offers["others"]))

    there = list(dict.fromkeys(offer.version for offer in versions))
    if Version.is_valid(version):
        there.sort(key=lambda one: distance(version, one))
    listed = ", ".join(there[:LISTED_VERSIONS])
    more = f" and {len(there) - LISTED_VERSIONS} more" if len(there) > LISTED_VERSIONS else ""
    message = f"no catalog has {name} {version}; to be had: {listed}{more}"
    if not any(offer.spelled for offer in versions):
        message += (
            f" ({name} has no version in its catalog, which {versions[0].version} stands for)"
        )
    return VersionUnavailable(message)


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

    versions = _newest_first(
        _in_order(catalogs, *(each["versions"] for each in answers), *known.values())
    )
    if not versions and any(answer["throws"] for answer in answers):
        _, thrown = query.ask_each("answer", unknown)
        failures |= {
            catalog: thrown_refusal(name, error) or error for catalog, error in thrown.items()
        }
    return Offers(
        versions,
        near=() if versions or failures else _near_names(query, catalogs),
        kind=_kind(kind for answer in answers for kind in answer["others"]),
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


def _newest_first(versions: Iterable[dict[str, Any]]) -> tuple[Offer, ...]:
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
        shown = Offer(version, spelled, catalog, offer["attr"], shadowed, offer.get("description"))
        found.setdefault((catalog, spelled), shown)
    return tuple(sorted(found.values(), key=lambda offer: order(offer.spelled), reverse=True))


def _kind(others: Iterable[str]) -> str:
    """Return the kind of the first attribute of a name that is no package; "" if there is none."""
    return next((kind for kind in others if kind != "error"), "")


def _near_names(query: Query, catalogs: Sequence[Catalog]) -> tuple[str, ...]:
    """Return the names in the catalogs that are most similar to the one asked for."""
    names, _ = query.ask_each("names", catalogs)
    return near_names(query.name, {name for each in names for name in each})
