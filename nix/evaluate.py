"""Evaluation: what the catalogs have under a name, asked of Nix by resolve.nix."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from itertools import pairwise
from pathlib import Path
from typing import Any

from semver import Version

from nix.internal_json import Progress, Tick, ignore
from nix.process import NixCrashed, NixError, TimedOut, scratch
from nix.store import CALL_SECONDS, Store, call, text

RESOLVE = Path(__file__).resolve().parent / "resolve.nix"
NEAR_NAMES = 5
LIKELY_NAMES = 200
NAMED_VERSIONS = 10
RESOLVING = Progress(0, 0, "resolving")


class EvaluationFailed(NixError):
    """A catalog can't be evaluated, or does not give the package out; the message says why."""

    code = "evaluation_failed"
    hint = "the catalog stands in the way, by a mistake in it or by its rules (unfree, broken)"


# What a faulty catalog brings about; the others are not to suffer from it.
FAULTS = (EvaluationFailed, NixCrashed, TimedOut)


class NameUnknown(NixError):
    """No catalog has the name."""

    code = "name_unknown"
    hint = "check the spelling, or add a catalog that has the name to CATALOGS"


class VersionUnavailable(NixError):
    """The catalogs have the name, but not in this version."""

    code = "version_unavailable"
    hint = "register one of the versions there are, or add a catalog that has this one to CATALOGS"


@dataclass(frozen=True)
class Resolution:
    """What a name and a version come to: a derivation, and those of its outputs to install."""

    catalog: str
    attr: str
    pname: str
    version: str
    drv_path: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Offer:
    """A version that a catalog has: as it can be asked for, else as it is spelled there."""

    version: str
    catalog: str
    attr: str


@dataclass(frozen=True)
class Offers:
    """The versions of a name, newest first; names near it, if there are none; what failed."""

    versions: tuple[Offer, ...] = ()
    near: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """What to look for, and how to keep in touch while Nix evaluates."""

    store: Store
    name: str
    version: str
    seconds: float
    tick: Tick

    def ask(self, what: str, *catalogs: str) -> Any:
        """Return the attribute `what` of resolve.nix over `catalogs`."""
        argv = [
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "--read-write-mode",
            *("--option", "allow-import-from-derivation", "false"),
            str(RESOLVE),
            *("--attr", what),
            *("--argstr", "catalogs", json.dumps(catalogs)),
            *("--argstr", "name", self.name),
            *("--argstr", "version", self.version),
        ]
        # An evaluation doesn't listen to TERM, and has nothing to tidy up.
        done = call(
            self.store,
            argv,
            seconds=self.seconds,
            grace_seconds=0,
            beat=lambda: self.tick(b"", RESOLVING),
        )
        return json.loads(text(done, EvaluationFailed))

    def ask_each(self, what: str, catalogs: Sequence[str]) -> tuple[list[Any], dict[str, NixError]]:
        """Ask each catalog alone; return the answers, and the error of each that has none."""
        answers: list[Any] = []
        failures: dict[str, NixError] = {}
        for catalog in catalogs:
            try:
                answers.append(self.ask(what, catalog))
            except FAULTS as error:
                failures[catalog] = error
        return answers, failures


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

    A catalog that fails is left out, with a line in the log, as long as another one serves.
    Raises NameUnknown, VersionUnavailable, EvaluationFailed.
    """
    with scratch(tmp) as place:
        question = Question(store.with_tmp(place), name, version, seconds, tick)
        try:
            answer = question.ask("answer", *catalogs)
        except FAULTS:
            answer = _answer_apart(question, catalogs)

        if "found" not in answer:
            raise _miss(question, catalogs, answer["offers"]["versions"])
    found = answer["found"]
    return Resolution(
        catalog=found["catalog"],
        attr=found["attr"],
        pname=found["pname"],
        version=found["version"],
        drv_path=found["drvPath"],
        outputs=tuple(found["outputs"]),
    )


def offers(
    store: Store,
    catalogs: Sequence[str],
    name: str,
    *,
    seconds: float = CALL_SECONDS,
    tick: Tick = ignore,
) -> Offers:
    """Return every version of `name` that there is; names near it when there are none."""
    question = Question(store, name, "", seconds, tick)
    failures: dict[str, NixError] = {}
    try:
        told = [question.ask("offers", *catalogs)]
    except FAULTS:
        told, failures = question.ask_each("offers", catalogs)

    versions = _newest_first([offer for each in told for offer in each["versions"]])
    if not versions and any(each["isRefused"] for each in told):
        failures |= question.ask_each("answer", catalogs)[1]
    return Offers(
        versions,
        near=() if versions or failures else _near(question, catalogs),
        failures=tuple((catalog, str(error)) for catalog, error in failures.items()),
    )


def _answer_apart(question: Question, catalogs: Sequence[str]) -> Any:
    """Answer from the first catalog that serves, asking each alone since one of them fails."""
    versions, failures = [], []
    for catalog in catalogs:
        try:
            answer = question.ask("answer", catalog)
        except FAULTS as error:
            failures.append(f"catalog {catalog}: {error}")
            if isinstance(error, EvaluationFailed) and _is_hit(question, catalog):
                break
            question.tick(f"pkgd: left out {failures[-1]}\n".encode(), RESOLVING)
            continue
        if "found" in answer:
            return answer
        versions += answer["offers"]["versions"]

    if failures:
        raise EvaluationFailed("\n".join(failures))
    return {"offers": {"versions": versions}}


def _is_hit(question: Question, catalog: str) -> bool:
    """Tell whether a catalog that fails has what is looked for, but doesn't give it out."""
    answers, _ = question.ask_each("probe", [catalog])
    return answers == [True]


def _miss(question: Question, catalogs: Sequence[str], versions: list[Any]) -> NixError:
    if not versions:
        near = _near(question, catalogs)
        meant = f"; did you mean {', '.join(near)}?" if near else ""
        return NameUnknown(f"no catalog has {question.name}{meant}")

    there = list(dict.fromkeys(offer.version for offer in _newest_first(versions)))
    named = ", ".join(there[:NAMED_VERSIONS])
    more = f" and {len(there) - NAMED_VERSIONS} more" if len(there) > NAMED_VERSIONS else ""
    return VersionUnavailable(
        f"no catalog has {question.name} {question.version}; to be had: {named}{more}"
    )


def _newest_first(versions: list[dict[str, str]]) -> tuple[Offer, ...]:
    """Order by Semantic Versioning; what can't be read that way comes last, in Nix's order."""
    readable: dict[tuple[str, str], Offer] = {}
    rest: dict[tuple[str, str], Offer] = {}
    for offer in versions:
        catalog, attr, semver = offer["catalog"], offer["attr"], offer["semver"]
        if semver and Version.is_valid(semver):
            readable.setdefault((catalog, semver), Offer(semver, catalog, attr))
        else:
            rest.setdefault((catalog, offer["version"]), Offer(offer["version"], catalog, attr))

    newest = sorted(readable.values(), key=lambda offer: Version.parse(offer.version), reverse=True)
    return (*newest, *rest.values())


def _near(question: Question, catalogs: Sequence[str]) -> tuple[str, ...]:
    names, _ = question.ask_each("names", catalogs)
    by_lower = {name.lower(): name for each in names for name in each}
    wanted = question.name.lower()
    parts = _parts(wanted)

    # difflib takes seconds over all of nixpkgs: it only gets those that have most in common.
    likely = nlargest(LIKELY_NAMES, by_lower, key=lambda name: len(parts & _parts(name)))
    return tuple(by_lower[name] for name in get_close_matches(wanted, likely, NEAR_NAMES))


def _parts(text: str) -> set[Any]:
    return {*text, *pairwise(text)}
