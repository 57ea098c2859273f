"""Maintenance: reconciling the database with the profile and the store, collecting, pruning.

The profile is authoritative for what is active, and the store for what is downloaded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import Select, delete, func, or_, select
from sqlalchemy.orm import aliased

import gc_roots
import nix
import profiles
import services
from models import (
    LIVE,
    AnyRow,
    Change,
    Generation,
    Package,
    PackageStatus,
    Reason,
    Task,
    TaskStatus,
    db,
    soon,
)

PRUNE_BATCH = 500
DAY_SECONDS = 86_400


# --- Reconciliation ---


def reconcile() -> list[str]:
    """Correct what the database has wrong; return a sentence about each correction."""
    with profiles.locked(math.inf):
        found = [*_lost_packages(), *_missing_roots(), *_generations()]
        return [*found, *_broken_profile(), *_active_packages()]


def _lost_packages() -> Iterator[str]:
    """Reset packages whose store paths are gone to `created`."""
    packages = list(db.session.scalars(select(Package).where(Package.store_path.is_not(None))))
    paths = [path for package in packages for path in package.store_paths or ()]
    valid = nix.valid_paths(services.get(nix.Store), paths)
    for package in packages:
        if not valid.issuperset(package.store_paths or ()):
            package.set_created()
            yield f"{package.name} {package.version} is no longer in the store"
    db.session.commit()


def _missing_roots() -> Iterator[str]:
    """Root the store paths of downloaded packages again."""
    downloaded = select(Package).where(Package.status != PackageStatus.CREATED)
    for package in db.session.scalars(downloaded).all():
        if profiles.ensure_rooted(package.id, package.store_paths or []):
            yield f"{package.name} {package.version} had lost its GC root"


def _generations() -> Iterator[str]:
    """Forget generations that are gone, and record those that something else has made."""
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    recorded = set(db.session.scalars(select(Generation.number)))
    existing = {generation.number for generation in nix.generations(store, profile)}

    gone = recorded - existing
    if gone:
        db.session.execute(delete(Generation).where(Generation.number.in_(gone)))
        yield f"generations {_listed(gone)} of the profile are gone"

    for number in sorted(existing - recorded):
        packages, unknown = _held_by(profiles.generation_link(number))
        entries = [profiles.entry(package) for package in packages]
        db.session.add(Generation(number=number, packages=entries))
        more = f", and of {', '.join(unknown)}" if unknown else ""
        yield f"generation {number} was made by somebody else, of {len(packages)} packages{more}"
    db.session.commit()


def _broken_profile() -> Iterator[str]:
    """If part of the profile is gone from the store, rebuild it from the packages that remain."""
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
    """Make `activated` exactly the packages that the profile holds."""
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


def _held_by(link: Path) -> tuple[list[AnyRow], list[str]]:
    """Return the packages that a generation holds, and the names of what else it holds."""
    if not link.exists():
        return [], ["what is gone from the store"]

    elements = nix.installed(services.get(nix.Store), link)
    paths = [path for _, path in elements]
    known = db.session.execute(
        profiles.packages().add_columns(Package.store_path).where(Package.store_path.in_(paths))
    ).all()
    known_paths = {package.store_path for package in known}
    return list(known), [name for name, path in elements if path not in known_paths]


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


# --- Garbage ---


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would: generations, roots, and bytes of store paths."""

    generations: list[int]
    roots: list[Path]
    freed_bytes: int


def collect_garbage(*, dry_run: bool) -> Collected:
    """Remove generations and roots that nothing needs, and have Nix collect its garbage.

    With `dry_run`, only tell what that would remove and free.
    """
    with profiles.locked(math.inf):
        old, stale = _old_generations(), _stale_roots()
        store = services.get(nix.Store)
        if dry_run:
            without = [*stale, *map(profiles.generation_link, old)]
            return Collected(old, stale, nix.garbage_bytes(store, without))

        nix.delete_generations(store, current_app.config["PROFILE"], old)
        db.session.execute(delete(Generation).where(Generation.number.in_(old)))
        db.session.commit()
        for link in stale:
            link.unlink()
        return Collected(old, stale, nix.collect_garbage(store))


def _old_generations() -> list[int]:
    """Return all generations but the newest KEEP_GENERATIONS and the active one."""
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    numbers = sorted(generation.number for generation in nix.generations(store, profile))
    needed = {*numbers[-current_app.config["KEEP_GENERATIONS"] :], profiles.current()}
    return [number for number in numbers if number not in needed]


def _stale_roots() -> list[Path]:
    """Return the roots of packages that are neither in the store nor on their way there."""
    needed = set(
        db.session.scalars(
            select(Package.id)
            .outerjoin(Task, Task.package_id == Package.id)
            .where(or_(Package.status != PackageStatus.CREATED, Task.status.in_(LIVE)))
        )
    )
    links = gc_roots.all_links(current_app.config["DATA_DIR"])
    return [link for link, package_id in links.items() if package_id not in needed]


# --- Old tasks ---


def prunable(days: int) -> int:
    """Return how many tasks `prune` would delete."""
    return db.session.scalar(select(func.count()).select_from(_old_tasks(days).subquery())) or 0


def prune(days: int) -> int:
    """Delete tasks that ended more than so many days ago, with their logs; return their number.

    A package keeps its latest task, and the one that downloaded it. Each
    batch is a transaction, so that other writers get their turn.
    """
    pruned = 0
    while True:
        batch = _old_tasks(days).limit(PRUNE_BATCH).subquery()
        deletion = delete(Task).where(Task.seq.in_(select(batch.c.seq))).returning(Task.seq)
        deleted = len(db.session.execute(deletion).all())
        db.session.commit()

        pruned += deleted
        if deleted < PRUNE_BATCH:
            return pruned


def _old_tasks(days: int) -> Select[Any]:
    newer = aliased(Task)
    has_newer = (
        select(newer.seq)
        .where(
            newer.package_id == Task.package_id,
            newer.seq > Task.seq,
            (newer.status == Task.status) | (Task.status != TaskStatus.SUCCEEDED),
        )
        .exists()
    )
    ended_before: datetime = soon(-days * DAY_SECONDS)

    return (
        select(Task.seq)
        .where(Task.status.not_in(LIVE), Task.finished_at < ended_before, has_newer)
        .order_by(Task.seq)
    )
