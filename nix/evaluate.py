"""Evaluation: what the catalogs have under a name, as resolve.nix finds it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
from nix.refusals import refusal, removal
from nix.requirement import unmet
from nix.store import CALL_SECONDS, DOWNLOAD_OPTIONS, Store, call, find_channel, output
from nix.store import version as nix_version
from nix.versions import distance, is_prerelease, order, semantic

RESOLVE = Path(__file__).resolve().parent / "resolve.nix"
RESOLVING = Progress(0, 0, "resolving")
LISTED_VERSIONS = 10

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

    def ask(self, attribute: str, *catalogs: Catalog) -> Any:
        """Evaluate an attribute of resolve.nix over `catalogs`. Raises CATALOG_FAULTS."""
        # Nix ignores TERM while it evaluates, and has nothing to clean up: no grace.
        done = call(
            self.store,
            [*self._nix_instantiate(catalogs), "--attr", attribute],
            seconds=self.seconds,
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

    def _nix_instantiate(self, catalogs: Sequence[Catalog]) -> list[str]:
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
    """Find the first catalog that has `name` in `version`, and instantiate the derivation.

    A catalog that fails is left out, with a line in the log, as long as another one has the
    package. Raises NameUnknown, VersionUnavailable, Refused, EvaluationFailed, NixTooOld.
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
    """Ask each catalog alone, since one of them fails; return the first answer with a package."""
    offers: dict[str, list[Any]] = {"versions": [], "others": []}
    failures: dict[str, NixError] = {}
    killed = None
    for catalog in catalogs:
        try:
            answer = query.ask("answer", catalog)
        except CATALOG_FAULTS as error:
            failures[catalog.name], has_package = _reason(query, catalog, error)
            killed = error if isinstance(error, NixKilled) else killed
            if has_package:
                raise _with_all(failures, failures[catalog.name]) from None
            query.tick(f"pkgd: left out catalog {catalog.name}: {error}\n".encode(), RESOLVING)
            continue

        if "offers" not in answer:
            return answer
        for key, found in offers.items():
            found += answer["offers"][key]

    if killed is not None:  # by the host: that catalog may well have the package
        raise killed
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
            return removal(query.name, error) or error, False
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
    allowed: Allowed = NOTHING_MORE,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Offers:
    """Return every version of `name` that the catalogs have; if there is none, similar names."""
    query = Query(store, name, "", allowed, seconds, tick)
    failures: dict[str, NixError] = {}
    try:
        answers = [query.ask("offers", *catalogs)]
    except CATALOG_FAULTS:
        answers, failures = query.ask_each("offers", catalogs)

    versions = _newest_first(offer for answer in answers for offer in answer["versions"])
    if not versions and any(answer["throws"] for answer in answers):
        _, thrown = query.ask_each("answer", catalogs)
        failures |= {catalog: removal(name, error) or error for catalog, error in thrown.items()}
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


def _newest_first(versions: Iterable[dict[str, Any]]) -> tuple[Offer, ...]:
    """Return the offers in order, once for each spelling in a catalog.

    Of several spellings of one version in a catalog, the first is the one to be had.
    """
    found: dict[tuple[str, str], Offer] = {}
    seen: set[tuple[str, str]] = set()
    for offer in versions:
        version = semantic(offer["spelled"])
        spelled = offer["catalog"], offer["spelled"]
        is_shadowed = (offer["catalog"], version) in seen and spelled not in found
        reason = "shadowed" if is_shadowed else offer["reason"]
        shown = Offer(version, offer["spelled"], offer["catalog"], offer["attr"], reason)
        found.setdefault(spelled, shown)
        seen.add((offer["catalog"], version))
    return tuple(sorted(found.values(), key=lambda offer: order(offer.spelled), reverse=True))


def _kind(others: Iterable[str]) -> str:
    """Return the kind of the first attribute of a name that is no package; "" if there is none."""
    return next((kind for kind in others if kind != "error"), "")


def _near_names(query: Query, catalogs: Sequence[Catalog]) -> tuple[str, ...]:
    """Return the names in the catalogs that are most similar to the one asked for."""
    names, _ = query.ask_each("names", catalogs)
    return near_names(query.name, {name for each in names for name in each})
