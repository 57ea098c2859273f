"""Garbage: roots and generations that no package needs, and what they alone keep in the store."""

from dataclasses import dataclass
from pathlib import Path

from flask import current_app
from sqlalchemy import delete, or_, select

import nix
import profiles
import roots
import services
from models import LIVE, Generation, Package, PackageStatus, Task, db


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would: generations, roots, and bytes of store paths."""

    generations: list[int]
    roots: list[Path]
    freed_bytes: int


def collect(*, dry_run: bool) -> Collected:
    """Remove what no package needs, and have Nix collect the rest; or tell what that would free."""
    with profiles.locked():
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
    """Return the generations to forget: all but the newest few and the one that is active."""
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    numbers = sorted(generation.number for generation in nix.generations(store, profile))
    kept = {*numbers[-current_app.config["KEEP_GENERATIONS"] :], profiles.current()}
    return [number for number in numbers if number not in kept]


def _stale_roots() -> list[Path]:
    """Return the roots of packages that are neither in the store nor on their way there."""
    needed = set(
        db.session.scalars(
            select(Package.id)
            .outerjoin(Task, Task.package_id == Package.id)
            .where(or_(Package.status != PackageStatus.CREATED, Task.status.in_(LIVE)))
        )
    )
    links = roots.all_links(current_app.config["DATA_DIR"])
    return [link for link, package_id in links.items() if package_id not in needed]
