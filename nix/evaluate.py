"""Evaluation: what the catalogs have under a name, as resolve.nix finds it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from itertools import pairwise
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
    TimedOut,
    VersionUnavailable,
)
from nix.internal_json import Progress, Tick, ignore
from nix.process import scratch
from nix.requirement import unmet
from nix.store import (
    CALL_SECONDS,
    DOWNLOAD_OPTIONS,
    Store,
    call,
    find_channel,
    output,
)
from nix.store import (
    version as nix_version,
)

RESOLVE = Path(__file__).resolve().parent / "resolve.nix"
RESOLVING = Progress(0, 0, "resolving")
NEAR_NAMES = 5
LIKELY_NAMES = 200
LISTED_VERSIONS = 10

# The errors that a faulty catalog causes; they must not hide what the other catalogs have.
CATALOG_FAULTS = (EvaluationFailed, FetchFailed, NixCrashed, NixTooOld, TimedOut)


@dataclass(frozen=True)
class Resolution:
    """The derivation that a name and a version stand for, and its outputs to install."""

    catalog: str
    attr: str
    pname: str
    version: str
    drv_path: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Offer:
    """A version that a catalog has: its Semantic Version, or its own spelling if it has none."""

    version: str
    catalog: str
    attr: str


@dataclass(frozen=True)
class CatalogFailure:
    """A catalog that could not be asked, with code and message of the error."""

    catalog: str
    code: str
    message: str


@dataclass(frozen=True)
class Offers:
    """The versions of a name, newest first; similar names if it has none; catalogs that failed."""

    versions: tuple[Offer, ...] = ()
    near: tuple[str, ...] = ()
    failures: tuple[CatalogFailure, ...] = ()


@dataclass(frozen=True)
class Query:
    """A name and a version to look for; `tick` is called while Nix evaluates."""

    store: Store
    name: str
    version: str
    seconds: float
    tick: Tick

    def ask(self, attribute: str, *catalogs: str) -> Any:
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
        self, attribute: str, catalogs: Iterable[str]
    ) -> tuple[list[Any], dict[str, NixError]]:
        """Ask each catalog alone; return the answers, and the error of each faulty catalog."""
        answers: list[Any] = []
        failures: dict[str, NixError] = {}
        for catalog in catalogs:
            try:
                answers.append(self.ask(attribute, catalog))
            except CATALOG_FAULTS as error:
                failures[catalog] = error
        return answers, failures

    def _explained(self, error: EvaluationFailed, catalogs: Sequence[str]) -> NixError:
        """Return NixTooOld if that is behind an error of an evaluation, else the error."""
        paths = (_path(self.store, catalog) for catalog in catalogs if len(catalogs) == 1)
        sentence = unmet(str(error), list(filter(None, paths)), nix_version(self.store))
        return NixTooOld(sentence) if sentence else error

    def _nix_instantiate(self, catalogs: Sequence[str]) -> list[str]:
        return [
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "--read-write-mode",
            *("--option", "allow-import-from-derivation", "false"),
            *DOWNLOAD_OPTIONS,
            str(RESOLVE),
            *("--argstr", "catalogs", json.dumps(catalogs)),
            *("--argstr", "name", self.name),
            *("--argstr", "version", self.version),
        ]


def resolve(
    store: Store,
    catalogs: Sequence[str],
    name: str,
    version: str,
    *,
    tmp: Path,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Resolution:
    """Find the first catalog that has `name` in `version`, and instantiate the derivation.

    A catalog that fails is left out, with a line in the log, as long as another one has the
    package. Raises NameUnknown, VersionUnavailable, EvaluationFailed.
    """
    with scratch(tmp) as folder:
        query = Query(store.with_tmp(folder), name, version, seconds, tick)
        try:
            answer = query.ask("answer", *catalogs)
        except CATALOG_FAULTS:
            answer = _answer_of_each(query, catalogs)

        if "found" not in answer:
            raise _not_found(query, catalogs, answer["offers"]["versions"])
    found = answer["found"]
    return Resolution(
        catalog=found["catalog"],
        attr=found["attr"],
        pname=found["pname"],
        version=found["version"],
        drv_path=found["drvPath"],
        outputs=tuple(found["outputs"]),
    )


def _answer_of_each(query: Query, catalogs: Sequence[str]) -> Any:
    """Ask each catalog alone, since one of them fails; return the first answer with a package."""
    versions: list[Any] = []
    failures: dict[str, NixError] = {}
    killed = None
    for catalog in catalogs:
        try:
            answer = query.ask("answer", catalog)
        except CATALOG_FAULTS as error:
            failures[catalog] = error
            killed = error if isinstance(error, NixKilled) else killed
            if isinstance(error, EvaluationFailed) and _has_package(query, catalog):
                raise EvaluationFailed(_list_of(failures)) from None
            query.tick(f"pkgd: left out catalog {catalog}: {error}\n".encode(), RESOLVING)
            continue

        if "found" in answer:
            return answer
        versions += answer["offers"]["versions"]

    if killed is not None:  # by the host: that catalog may well have the package
        raise killed
    if failures:
        raise _failure_of_all(failures)
    return {"offers": {"versions": versions}}


def _failure_of_all(failures: dict[str, NixError]) -> NixError:
    """Return one error for the catalogs that failed, of the kind that can most be helped."""
    for error in failures.values():
        if isinstance(error, FetchFailed):
            return FetchFailed(error.fault, _list_of(failures))
    is_too_old = any(isinstance(error, NixTooOld) for error in failures.values())
    return (NixTooOld if is_too_old else EvaluationFailed)(_list_of(failures))


def _list_of(failures: dict[str, NixError]) -> str:
    return "\n".join(f"catalog {catalog}: {error}" for catalog, error in failures.items())


def _has_package(query: Query, catalog: str) -> bool:
    """Tell whether a catalog that failed has the package, but refuses to provide it."""
    answers, _ = query.ask_each("probe", [catalog])
    return answers == [True]


def _not_found(query: Query, catalogs: Sequence[str], versions: list[Any]) -> NixError:
    """Return the error for a package that no catalog has, with what there is instead."""
    if not versions:
        return NameUnknown(query.name, _near_names(query, catalogs))

    there = list(dict.fromkeys(offer.version for offer in _newest_first(versions)))
    listed = ", ".join(there[:LISTED_VERSIONS])
    more = f" and {len(there) - LISTED_VERSIONS} more" if len(there) > LISTED_VERSIONS else ""
    return VersionUnavailable(
        f"no catalog has {query.name} {query.version}; to be had: {listed}{more}"
    )


def offers(
    store: Store,
    catalogs: Sequence[str],
    name: str,
    *,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Offers:
    """Return every version of `name` that the catalogs have; if there is none, similar names."""
    query = Query(store, name, "", seconds, tick)
    failures: dict[str, NixError] = {}
    try:
        answers = [query.ask("offers", *catalogs)]
    except CATALOG_FAULTS:
        answers, failures = query.ask_each("offers", catalogs)

    versions = _newest_first(offer for answer in answers for offer in answer["versions"])
    if not versions and any(answer["isRefused"] for answer in answers):
        failures |= query.ask_each("answer", catalogs)[1]
    return Offers(
        versions,
        near=() if versions or failures else _near_names(query, catalogs),
        failures=_told(failures),
    )


def failing(
    store: Store, catalogs: Sequence[str], *, seconds: float = CALL_SECONDS
) -> tuple[CatalogFailure, ...]:
    """Evaluate the names of each catalog; return those that fail."""
    return _told(Query(store, "", "", seconds, ignore).ask_each("names", catalogs)[1])


def _told(failures: dict[str, NixError]) -> tuple[CatalogFailure, ...]:
    return tuple(CatalogFailure(name, e.code, str(e)) for name, e in failures.items())


def _path(store: Store, catalog: str) -> Path | None:
    """Return where a catalog is; None for a channel that is not there."""
    return find_channel(store, catalog.strip("<>")) if catalog.startswith("<") else Path(catalog)


def _newest_first(versions: Iterable[dict[str, str]]) -> tuple[Offer, ...]:
    """Order by Semantic Versioning; versions without one come last, in the order of resolve.nix."""
    semantic: dict[tuple[str, str], Offer] = {}
    others: dict[tuple[str, str], Offer] = {}
    for found in versions:
        catalog, attr, semver = found["catalog"], found["attr"], found["semver"]
        if semver and Version.is_valid(semver):
            semantic.setdefault((catalog, semver), Offer(semver, catalog, attr))
        else:
            others.setdefault((catalog, found["version"]), Offer(found["version"], catalog, attr))

    newest = sorted(semantic.values(), key=lambda offer: Version.parse(offer.version), reverse=True)
    return (*newest, *others.values())


def _near_names(query: Query, catalogs: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the catalogs that are most similar to the one asked for."""
    names, _ = query.ask_each("names", catalogs)
    by_lower = {name.lower(): name for each in names for name in each}
    wanted = query.name.lower()
    parts = _parts(wanted)

    # difflib would take seconds for all of nixpkgs: preselect by letters and pairs in common.
    likely = nlargest(LIKELY_NAMES, by_lower, key=lambda name: len(parts & _parts(name)))
    return tuple(by_lower[name] for name in get_close_matches(wanted, likely, NEAR_NAMES))


def _parts(word: str) -> set[Any]:
    return {*word, *pairwise(word)}
