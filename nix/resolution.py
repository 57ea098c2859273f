"""Resolution: the derivation of a name and a version, from the first catalog that has it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from semver import Version

from nix.errors import (
    EvaluationFailed,
    FetchFailed,
    NameUnknown,
    NixError,
    NixKilled,
    NixTooOld,
    Refused,
    VersionUnavailable,
)
from nix.evaluate import (
    CATALOG_FAULTS,
    NOTHING_MORE,
    RESOLVING,
    Allowed,
    Avoided,
    Catalog,
    Query,
    kind_of,
    names_near,
    newest_first,
)
from nix.internal_json import Tick, ignore
from nix.process import scratch
from nix.refusals import refusal, thrown_refusal
from nix.store import CALL_SECONDS, Store
from nix.versions import distance, semantic

LISTED_VERSIONS = 10


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
class Sought:
    """A name and a version to resolve, and the attributes to avoid."""

    name: str
    version: str
    avoided: Avoided


def resolve(
    store: Store,
    catalogs: Sequence[Catalog],
    name: str,
    version: str,
    *,
    tmp: Path,
    allowed: Allowed = NOTHING_MORE,
    avoided: Avoided = MappingProxyType({}),
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Resolution:
    """Find the first catalog that provides `name` in `version`, and instantiate the derivation.

    Of several attributes of that version, one that is not `avoided` is chosen where there is one.

    A catalog that fails is left out, with a line in the log, as long as another one has the
    package; so is one that refuses it. Raises NameUnknown, VersionUnavailable, Refused,
    EvaluationFailed, NixTooOld.
    """
    with scratch(tmp) as folder:
        query = Query(
            store.with_tmp(folder), name, version, allowed, seconds, tick, avoided=avoided
        )
        try:
            answer = query.ask("answer", *catalogs)
        except CATALOG_FAULTS:
            answer = _answer_of_each(query, catalogs)

        if "refused" in answer:
            raise _refusal(answer["refused"])
        if "found" not in answer:
            raise _not_found(query, catalogs, answer["offers"])
    return _resolution(answer["found"])


def resolve_all(
    store: Store,
    catalogs: Sequence[Catalog],
    wanted: Sequence[Sought],
    *,
    tmp: Path,
    allowed: Allowed = NOTHING_MORE,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> list[Resolution | None]:
    """Resolve packages by one evaluation, which costs little more than one of them alone.

    None stands for what is not found: `resolve` tells why. Raises CATALOG_FAULTS where one of them,
    or a catalog, fails.
    """
    with scratch(tmp) as folder:
        query = Query(store.with_tmp(folder), "", "", allowed, seconds, tick)
        sought = json.dumps([asdict(one) for one in wanted])
        found = query.ask("found", *catalogs, wanted=sought)
    return [one and _resolution(one) for one in found]


def _resolution(found: dict[str, Any]) -> Resolution:
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
        there = [one for one in answer["versions"] if semantic(one["spelled"]) == query.version]
        if there:
            chosen = next((one for one in there if one["reason"] is None), there[0])
            told = refusal(error) or EvaluationFailed(*error.args)
            told.catalog, told.attr, told.spelled = catalog.name, chosen["attr"], chosen["spelled"]
            return told, True
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
    versions = newest_first(offers["versions"])
    if not versions:
        return NameUnknown(name, names_near(query, catalogs), kind_of(offers["others"]))

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
