"""The record of the profile: its generations, what each holds, and which was active when.

Nix gives out the number of a generation again once its link is gone: after `nix-env
--delete-generations`, or when a profile is begun anew. So a record is true of the generation of its
number only while that generation's link leads to the recorded store path. A record that is not is
renewed from what the link leads to, before anything is done with it.

Nothing here commits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import delete, select

import nix
import services
from models import (
    AnyRow,
    Change,
    Generation,
    Package,
    PackageStatus,
    Reason,
    db,
    insert_or_ignore,
)
from schemas import PackageInSchema

NAMES = PackageInSchema()


@dataclass(frozen=True)
class Found:
    """What a generation holds by its link: packages, and in words what can't be one.

    `is_broken` tells that the store has lost a part of it.
    """

    number: int
    store_path: str
    packages: list[nix.ProfilePackage]
    others: list[str]
    is_broken: bool


# --- What there is ---


def links() -> dict[int, str]:
    """Return the number and the store path of each generation that exists."""
    return nix.generations(_profile())


def current_number() -> int | None:
    """Return the number of the generation that the profile leads to, whose link may be gone."""
    return nix.current_generation(_profile())


def current() -> tuple[int, str] | None:
    """Return number and store path of the active generation; None where there is none."""
    number = current_number()
    path = store_path(number) if number is not None else None
    return (number, path) if number is not None and path else None


def link(number: int) -> Path:
    """Return the link that Nix keeps for a generation."""
    return nix.generation_link(_profile(), number)


def store_path(number: int) -> str | None:
    """Return where the link of a generation leads to; None where it is gone."""
    return str(link(number).readlink()) if link(number).is_symlink() else None


def look(number: int) -> Found:
    """Return what a generation holds by its link; the store path is "" where that is gone."""
    path = store_path(number) or ""
    if not link(number).exists():
        return Found(number, path, [], ["what is gone from the store"], is_broken=True)

    store = services.get(nix.Store)
    try:
        elements = nix.installed(store, link(number))
    except nix.NixError as error:
        if type(error) is not nix.NixError:
            raise
        return Found(number, path, [], [f"what can't be read: {error}"], is_broken=False)

    every = {path for _, paths in elements for path in paths}
    valid = nix.valid_paths(store, every)
    packages, others = [], []
    for name, paths in elements:
        package = _package(name, paths) if valid.issuperset(paths) else None
        if package:
            packages.append(package)
        else:
            others.append(name)
    return Found(number, path, packages, others, is_broken=valid != every)


def _package(name: str, paths: tuple[str, ...]) -> nix.ProfilePackage | None:
    """Return the package that is in a profile under this name, registered or not.

    None for a name that can't be that of a package, with its version.
    """
    here = select(Package.name, Package.version).where(Package.store_path == paths[0])
    rows = db.session.execute(here.order_by(Package.status, Package.id)).all()  # active ones first
    # Several packages can have one store path: the name tells which of them it is.
    named = [row for row in rows if f"{row.name}-{row.version}" == name]
    found = next(iter([*named, *rows]), None) or _split(name)
    return nix.ProfilePackage(*found, paths) if found else None


def _split(title: str) -> tuple[str, str] | None:
    """Return the name and the version in NAME-VERSION."""
    words = title.split("-")
    for count in range(1, len(words)):
        name, version = "-".join(words[:count]), "-".join(words[count:])
        if not NAMES.validate({"name": name, "version": version}):
            return name, version
    return None


# --- The record ---


def record_of(number: int) -> Generation | None:
    """Return the record of a generation; None where there is none that is true of it."""
    path = store_path(number)
    record = db.session.scalar(select(Generation).where(Generation.number == number))
    return record if record and path and record.store_path == path else None


def untrue() -> list[int]:
    """Return the ids of the records that are true of no generation."""
    existing = links()
    rows = db.session.execute(select(Generation.id, Generation.number, Generation.store_path))
    return [row.id for row in rows if not is_true(row, existing)]


def unrecorded() -> list[int]:
    """Return the generations that have no true record."""
    rows = db.session.execute(select(Generation.number, Generation.store_path))
    recorded = {row.number: row.store_path for row in rows}
    return [number for number, path in links().items() if recorded.get(number) != path]


def is_true(record: AnyRow | Generation, existing: dict[int, str]) -> bool:
    """Tell whether a record is true of one of the existing generations."""
    path = existing.get(record.number)
    return path is not None and record.store_path in (path, None)


def is_behind(number: int) -> bool:
    """Tell whether the last recorded change was to something else than this active generation."""
    record = record_of(number)
    return record is None or record.id != _last_recorded()


def active_before() -> int | None:
    """Return the last generation but the current one that was active and still exists."""
    latest_first = (
        select(Generation.number, Generation.store_path)
        .join(Change, Change.generation_id == Generation.id)
        .order_by(Change.id.desc())
    )
    existing, now = links(), current_number()
    for row in db.session.execute(latest_first):
        if row.number != now and is_true(row, existing):
            return int(row.number)
    return None


def note(number: int, packages: Iterable[Any], reason: Reason, by: str | None) -> None:
    """Record that the profile has become this generation, which holds these packages."""
    held = sorted(map(entry, packages), key=itemgetter("id"))
    record = record_of(number) or _begin(number, store_path(number))
    record.packages = held
    db.session.flush()
    db.session.add(Change(generation_id=record.id, reason=reason, by=by))
    Package.follow_profile([one["id"] for one in held])


def entry(package: AnyRow | Package) -> dict[str, Any]:
    """Return what a generation's record holds of a package."""
    return {
        "id": package.id,
        "name": package.name,
        "version": package.version,
        "store_paths": package.store_paths,
    }


def _begin(number: int, path: str | None) -> Generation:
    """Add the record of a generation, in place of one of another generation of that number."""
    db.session.execute(delete(Generation).where(Generation.number == number))
    record = Generation(number=number, store_path=path, packages=[])
    db.session.add(record)
    return record


def _last_recorded() -> int | None:
    return db.session.scalar(select(Change.generation_id).order_by(Change.id.desc()).limit(1))


# --- Following the profile ---


def forget_gone() -> Iterator[str]:
    """Delete the records of generations that no longer exist."""
    gone = set(db.session.scalars(select(Generation.number))) - links().keys()
    if gone:
        db.session.execute(delete(Generation).where(Generation.number.in_(gone)))
        yield f"generations {', '.join(map(str, sorted(gone)))} of the profile are gone"


def renew(found: Found) -> tuple[Generation, list[str]]:
    """Record what a generation without a true record holds; return that, and what to tell of it."""
    old = db.session.scalar(select(Generation).where(Generation.number == found.number))
    if old and old.store_path is None and (found.is_broken or _holds(found, old)):
        old.store_path = found.store_path  # of an earlier version, which did not record it
        return old, []

    said, entries = [], []
    for package in found.packages:
        row, is_new = _registered(package)
        entries.append(entry(row) | {"store_paths": list(package.paths)})
        if is_new:
            said.append(f"{package} is registered again: generation {found.number} holds it")
    record = _begin(found.number, found.store_path)
    record.packages = entries
    db.session.flush()

    more = f", and of {', '.join(found.others)}" if found.others else ""
    holds = f"of {len(entries)} packages{more}"
    return record, [f"generation {found.number} was made by somebody else, {holds}", *said]


def _holds(found: Found, record: Generation) -> bool:
    """Tell whether what was found has all that the record has."""
    paths = {package.paths for package in found.packages}
    return all(tuple(one["store_paths"]) in paths for one in record.packages)


def follow() -> Iterator[str]:
    """Make `activated` exactly the packages that the profile holds by its true record."""
    now = current()
    record = record_of(now[0]) if now else None
    held = _adopt_record(record) if record else []
    if record and record.id != _last_recorded():
        db.session.add(Change(generation_id=record.id, reason=Reason.FOUND))
        yield f"the profile was switched to generation {record.number} by somebody else"

    is_active = Package.status == PackageStatus.ACTIVATED
    before = set(db.session.scalars(select(Package).where(is_active)))
    for package in held:
        if package not in before:
            yield f"{package.name} {package.version} is in the profile"
    for package in sorted(before.difference(held), key=attrgetter("id")):
        yield f"{package.name} {package.version} is not in the profile"
    Package.follow_profile([package.id for package in held])


def held_by(record: Generation) -> list[nix.ProfilePackage]:
    """Return the packages that a generation holds by its record."""
    return [
        nix.ProfilePackage(one["name"], one["version"], tuple(one["store_paths"]))
        for one in record.packages
    ]


def lost(packages: Iterable[nix.ProfilePackage]) -> list[nix.ProfilePackage]:
    """Return which of the packages are gone from the store."""
    packages = list(packages)
    paths = [path for package in packages for path in package.paths]
    valid = nix.valid_paths(services.get(nix.Store), paths)
    return [package for package in packages if not valid.issuperset(package.paths)]


def adopt(packages: Iterable[nix.ProfilePackage]) -> list[Package]:
    """Return packages that the store has as registered, and downloaded with these store paths."""
    return [_adopt(package) for package in packages]


def _adopt_record(record: Generation) -> list[Package]:
    """Return what is left of a generation's packages, registered and downloaded again."""
    packages = held_by(record)
    gone = lost(packages)
    held = adopt(package for package in packages if package not in gone)
    record.packages = [entry(package) for package in held]
    return held


def _adopt(package: nix.ProfilePackage) -> Package:
    row, _ = _registered(package)
    paths = list(package.paths)
    if row.store_paths != paths:
        _download(row, paths)
    return row


def _registered(package: nix.ProfilePackage) -> tuple[Package, bool]:
    """Return the package in the database, and whether it was not there; it is downloaded then."""
    new = insert_or_ignore(Package).values(name=package.name, version=package.version)
    is_new = db.session.scalar(new.returning(Package.id)) is not None
    is_same = Package.name == package.name, Package.version == package.version
    row = db.session.scalars(select(Package).where(*is_same)).one()
    if is_new:
        _download(row, list(package.paths))
    return row, is_new


def _download(package: Package, store_paths: list[str]) -> None:
    size = nix.closure_size(services.get(nix.Store), store_paths)
    package.set_downloaded(store_paths, size)


def _profile() -> Path:
    profile: Path = current_app.config["PROFILE"]
    return profile
