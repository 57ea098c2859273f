"""Reconciliation: making the database say what is true of the profile and the store.

The profile is right about what is active, the store about what is downloaded. What is found amiss
is set right, and told in a line each.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import Row, delete, select

import nix
import profiles
import services
from models import Change, Generation, Package, PackageStatus, Reason, db


def reconcile() -> list[str]:
    """Set right whatever the database has wrong; return a sentence for each thing found."""
    with profiles.locked():
        found = [*_lost_packages(), *_missing_roots(), *_generations()]
        return [*found, *_broken_profile(), *_active_packages()]


def _lost_packages() -> Iterator[str]:
    """Packages whose store paths are gone are created again."""
    packages = list(db.session.scalars(select(Package).where(Package.store_path.is_not(None))))
    paths = [path for package in packages for path in package.store_paths or ()]
    valid = nix.valid_paths(services.get(nix.Store), paths)
    lost = [package for package in packages if not valid.issuperset(package.store_paths or ())]
    for package in lost:
        package.lose()
        yield f"{package.name} {package.version} is no longer in the store"
    db.session.commit()


def _missing_roots() -> Iterator[str]:
    kept = select(Package).where(Package.status != PackageStatus.CREATED)
    for package in db.session.scalars(kept).all():
        if profiles.ensure_rooted(package.id, package.store_paths or []):
            yield f"{package.name} {package.version} had lost its GC root"


def _generations() -> Iterator[str]:
    """Generations that somebody removed are forgotten, those that somebody made recorded."""
    recorded = set(db.session.scalars(select(Generation.number)))
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    there = {generation.number for generation in nix.generations(store, profile)}

    gone, new = recorded - there, there - recorded
    if gone:
        db.session.execute(delete(Generation).where(Generation.number.in_(gone)))
        yield f"generations {_listed(gone)} of the profile are gone"
    for number in sorted(new):
        packages, unknown = _held_by(profiles.generation_link(number))
        entries = [profiles.entry(package) for package in packages]
        db.session.add(Generation(number=number, packages=entries))
        more = f", and of {', '.join(unknown)}" if unknown else ""
        yield f"generation {number} was made by somebody else, of {len(packages)} packages{more}"
    db.session.commit()


def _broken_profile() -> Iterator[str]:
    """A profile of which a part is gone from the store is built again, of what is left."""
    number = profiles.current()
    if number is None or not _is_broken(number):
        return
    packages = profiles.active()
    target = profiles.generation_link(number).readlink()
    nix.restore(services.get(nix.Store), str(target))
    now = profiles.set_packages(current_app.config["PROFILE"], packages)
    profiles.record(now, packages, Reason.FOUND, None)
    yield f"generation {number} had lost a part; generation {now} is built of what is left"


def _is_broken(number: int) -> bool:
    link = profiles.generation_link(number)
    if not link.exists():
        return True
    store = services.get(nix.Store)
    paths = {path for _, path in nix.installed(store, link)}
    return nix.valid_paths(store, paths) != paths


def _active_packages() -> Iterator[str]:
    """Statuses follow the profile."""
    number = profiles.current()
    packages = [] if number is None else _held_by(profiles.generation_link(number))[0]
    held = {package.id for package in packages}
    before = {package.id: package for package in profiles.active()}
    if number is not None and number != _last_recorded():
        db.session.add(Change(generation=number, reason=Reason.FOUND))
        yield f"the profile was switched to generation {number} by somebody else"
    for package in packages:
        if package.id not in before:
            yield f"{package.name} {package.version} is in the profile"
    for package_id in before.keys() - held:
        package = before[package_id]
        yield f"{package.name} {package.version} is not in the profile"
    Package.follow_profile(held)
    db.session.commit()


def _last_recorded() -> int | None:
    return db.session.scalar(select(Change.generation).order_by(Change.id.desc()).limit(1))


def _held_by(link: Path) -> tuple[list[Row[Any]], list[str]]:
    """Return the packages that a generation holds, and the names of what it holds besides."""
    if not link.exists():
        return [], ["what is gone from the store"]
    elements = nix.installed(services.get(nix.Store), link)
    paths = [path for _, path in elements]
    known = db.session.execute(
        profiles.columns().add_columns(Package.store_path).where(Package.store_path.in_(paths))
    ).all()
    ours = {package.store_path for package in known}
    return list(known), [name for name, path in elements if path not in ours]


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
