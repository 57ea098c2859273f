"""Manifests that are pasted into a page: the TOML that `pkgctl apply` reads, and what it means.

The rules are those of pkgctl/manifest.py, which shares no code with the server.
"""

import json
import re
import threading
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

import nix
import services
from catalogs import routes as catalogs
from catalogs.schemas import CatalogQuerySchema
from errors import Busy, InvalidInput, NameNotFound
from fields import MAX_IDS, PROFILE_NAME
from models import Package, PackageStatus, db
from schemas import PackageInSchema

LATEST = "latest"
EXAMPLE = 'such as hello = "2.12.1", nodejs = "^20" or jq = "latest"'
KEYS = {"profile", "packages"}
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
CHOOSING_SECONDS = 30
CHOOSING_AT_ONCE = 2  # each holds a thread, for as long as that at most
# In a line. To parse a key takes time by the square of its parts: 10 s for 20,000 of them.
MAX_DOTS = 200
NAMES, RANGES = PackageInSchema(only=["name"]), CatalogQuerySchema()


class ChoosingSlots(threading.BoundedSemaphore):
    """For how many manifests this process may choose versions at once."""


@dataclass(frozen=True)
class Manifest:
    """A version or a range for each name, and the profile that it is for, if it says so."""

    packages: dict[str, str]
    profile: str | None = None


def read(text: str) -> Manifest:
    """Return what a manifest says. Raises InvalidInput, with a message for each fault."""
    if any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise _wrong("It is nested too deeply.")
    try:
        content = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise _wrong(f"This isn't TOML: {error}") from None
    except RecursionError:
        raise _wrong("It is nested too deeply.") from None
    except ValueError:
        raise _wrong("It has a number that is too long.") from None
    packages, profile = content.get("packages"), content.get("profile")
    faults = [f"{key}: no such key." for key in sorted(content.keys() - KEYS)]
    if profile is not None and not (isinstance(profile, str) and PROFILE_NAME.fullmatch(profile)):
        faults.append(f"profile is {profile!r}, not the name of a profile.")
    if not isinstance(packages, dict):
        faults.append(f"There is no table [packages]; under that come the names, {EXAMPLE}.")
        raise _wrong(*faults)
    if len(packages) > MAX_IDS:
        faults.append(f"A profile holds {MAX_IDS} packages at most.")
    faults += [fault for item in packages.items() for fault in _faults(*item)]
    if faults:
        raise _wrong(*faults)
    return Manifest({name: wanted.strip() for name, wanted in packages.items()}, profile)


def _faults(name: str, wanted: object) -> list[str]:
    """Return what is wrong with a line."""
    if isinstance(wanted, dict):
        inner = next(iter(wanted), "requests")
        return [f'{name} is a table: a name with a dot is quoted, "{name}.{inner}" = "latest".']
    if faults := NAMES.validate({"name": name}):
        return [f"{name}: {' '.join(faults['name'])}"]
    if not isinstance(wanted, str) or not wanted.strip():
        return [f"{name} has no version or range in quotes, {EXAMPLE}."]
    faults = RANGES.validate({"version": wanted})
    return [f"{name}: {' '.join(faults['version'])}"] if faults else []


def text(packages: Iterable[Mapping[str, Any]]) -> str:
    """Return the manifest of packages, each with its version."""
    versions = {one["name"]: one["version"] for one in packages}
    lines = (f"{_key(name)} = {json.dumps(versions[name])}" for name in sorted(versions))
    return "\n".join(["[packages]", *lines, ""])


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)


# --- Versions ---


def choose(manifest: Manifest) -> dict[str, str]:
    """Return the version that each line means: what an installation would take.

    Raises InvalidInput with a message for each line that means none, or Busy where the catalogs
    take too long to say, or are asked for CHOOSING_AT_ONCE other manifests.
    """
    slots = services.get(ChoosingSlots)
    if not slots.acquire(blocking=False):
        raise Busy(what="the versions of other manifests are being chosen")
    try:
        return _chosen(manifest)
    finally:
        slots.release()


def _chosen(manifest: Manifest) -> dict[str, str]:
    deadline = time.monotonic() + CHOOSING_SECONDS
    chosen, faults = {}, []
    for name, wanted in manifest.packages.items():
        if time.monotonic() > deadline:
            raise Busy(what="the catalogs take too long to say which versions they have")
        try:
            chosen[name] = _version(name, wanted)
        except LookupError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise _wrong(*faults)
    return chosen


def _version(name: str, wanted: str) -> str:
    """Return the version that a line means. Raises LookupError, which says why there is none."""
    if _is_downloaded(name, wanted):
        return wanted
    try:
        found = catalogs.offered(name, None if wanted == LATEST else wanted)
    except NameNotFound as error:
        raise LookupError(str(error)) from None
    except InvalidInput as error:
        raise LookupError(str(error).removeprefix("version: ")) from None
    offers: list[nix.Offer] = found["versions"]
    exact = [one for one in offers if wanted in (one.version, one.spelled)]
    usable = [one for one in exact or offers if one.available]
    best = next((one for one in usable if exact or not one.prerelease), None)
    if best is None:
        raise LookupError(_why_none(wanted, offers, found["failures"]))
    return best.version


def _is_downloaded(name: str, version: str) -> bool:
    """Tell whether a package is there, for which no catalog needs to be asked."""
    there = Package.status != PackageStatus.CREATED
    same = Package.name == name, Package.version == version
    return db.session.scalar(select(Package.id).where(*same, there)) is not None


def _why_none(wanted: str, offers: list[nix.Offer], failures: Iterable[Any]) -> str:
    if refused := [f"{one.version} ({one.reason})" for one in offers if not one.available]:
        return f"nothing that fits {wanted} may be had: {', '.join(refused)}"
    if offers:
        return (
            f"of {wanted} there are only pre-releases: {', '.join(one.version for one in offers)}"
        )
    told = "; ".join(f"{one.catalog}: {one.message}" for one in failures)
    return f"no catalog that answers has {wanted}; {told}" if told else f"no catalog has {wanted}"


def _wrong(*faults: str) -> InvalidInput:
    return InvalidInput(errors={"manifest": [nix.plain(fault) for fault in faults]})
