"""The profile: what is active, changed by one caller at a time and in one step."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import current_app
from sqlalchemy import Row, select

import nix
from models import Package, PackageStatus, db


class NotDownloaded(Exception):
    """A package can't be active before it is in the store."""


def activate(package_id: int) -> None:
    """Put a package in the profile, in place of another version of its name.

    Raises NotDownloaded, or nix.Collision when another active package has a file of the same name;
    the profile is then as it was.
    """
    with _locked():
        wanted = db.session.execute(_columns().where(Package.id == package_id)).one()
        if wanted.status == PackageStatus.CREATED:
            raise NotDownloaded(f"{wanted.name} {wanted.version} is not downloaded")
        others = db.session.execute(
            _columns().where(Package.status == PackageStatus.ACTIVATED, Package.name != wanted.name)
        ).all()
        _set([wanted, *others])


def _set(packages: list[Row[Any]]) -> None:
    """Make the profile hold exactly these packages, and their statuses say so."""
    ordered = sorted(packages, key=lambda package: package.id)
    entries = [
        nix.ProfilePackage(package.name, package.version, tuple(package.store_paths))
        for package in ordered
    ]
    store, profile = current_app.extensions["store"], current_app.config["PROFILE"]
    nix.set_profile(store, profile, entries, tmp=current_app.config["DATA_DIR"] / "tmp")
    Package.follow_profile([package.id for package in ordered])
    db.session.commit()


def _columns() -> Any:
    return select(Package.id, Package.name, Package.version, Package.status, Package.store_paths)


@contextmanager
def _locked() -> Iterator[None]:
    """Let one caller at a time, of all processes, change the profile."""
    path: Path = current_app.config["DATA_DIR"] / "profile.lock"
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
