"""The profile: what is active. It is changed by one caller at a time, and in one step.

The order of every change: the lock, what the database says now, Nix, the operator's check, the
record. A crash in between leaves the profile ahead of the record, which reconciliation sets right.
"""

import fcntl
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import current_app
from sqlalchemy import Row, select

import nix
import roots
import services
from models import Change, Generation, Package, PackageStatus, Reason, db

log = logging.getLogger("pkgd.profiles")

CHECK_SECONDS = 60
GENERATION_LINK = re.compile(r".*-(\d+)-link")


class NotDownloaded(Exception):
    """A package can't be active before it is in the store."""


class NoSuchGeneration(Exception):
    """The profile has no such generation, or never had another one."""


class CheckFailed(Exception):
    """The operator's check refused the new generation; the profile is what it was."""


def activate(package_id: int, by: str | None) -> None:
    """Put a package in the profile, in place of another version of its name.

    Raises NotDownloaded, CheckFailed, or nix.Collision when another active package has a file of
    the same name; the profile is then as it was.
    """
    with locked():
        wanted, others = _after_activation(package_id)
        replaced = any(package.name == wanted.name for package in active())
        _set([wanted, *others], Reason.REPLACE if replaced else Reason.ACTIVATE, by)


def deactivate(package_id: int, by: str | None) -> None:
    """Take a package out of the profile; not being there is a success."""
    with locked():
        before = active()
        after = [package for package in before if package.id != package_id]
        if len(after) < len(before):
            _set(after, Reason.DEACTIVATE, by)


def switch(number: int, by: str | None, reason: Reason = Reason.SWITCH) -> None:
    """Make the profile what it was in a generation. Raises NoSuchGeneration, CheckFailed."""
    with locked():
        _switch(number, by, reason)


def rollback(by: str | None) -> int:
    """Switch to the generation that was active before; return its number."""
    with locked():
        number = _active_before()
        _switch(number, by, Reason.ROLLBACK)
        return number


def plan(package_id: int) -> dict[str, Any]:
    """Return what activating a package would add, replace and remove, without doing it.

    `closure_size_change` is in bytes. Raises NotDownloaded, or nix.Collision.
    """
    wanted, others = _after_activation(package_id)
    before, after = active(), [wanted, *others]
    with TemporaryDirectory(dir=current_app.config["DATA_DIR"]) as folder:
        set_packages(Path(folder) / "profile", after)

    kept = {package.id for package in before} & {package.id for package in after}
    removed = [package for package in before if package.id not in kept]
    return {
        "added": [package for package in after if package.id not in kept],
        "removed": removed,
        "replaced": [
            {"name": one.name, "old": one.version, "new": wanted.version} for one in removed
        ],
        "closure_size_change": _size(after) - _size(before),
    }


def active() -> list[Row[Any]]:
    """Return the packages that the database has as activated, oldest first."""
    status = Package.status == PackageStatus.ACTIVATED
    return list(db.session.execute(columns().where(status).order_by(Package.id)).all())


def columns() -> Any:
    """Select what the profile needs to know of packages."""
    return select(Package.id, Package.name, Package.version, Package.status, Package.store_paths)


def current() -> int | None:
    """Return the number of the generation that the profile is; None when there is no profile."""
    profile: Path = current_app.config["PROFILE"]
    match = GENERATION_LINK.fullmatch(profile.readlink().name) if profile.is_symlink() else None
    return int(match[1]) if match else None


def generation_link(number: int) -> Path:
    """Return the link that Nix keeps for a generation."""
    profile: Path = current_app.config["PROFILE"]
    return profile.with_name(f"{profile.name}-{number}-link")


@contextmanager
def locked() -> Iterator[None]:
    """Let one caller at a time, of all processes, change what is in the profile or the store."""
    # not profile.lock: that is the name of the lock that Nix itself takes
    path: Path = current_app.config["DATA_DIR"] / "changes.lock"
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def set_packages(profile: Path, packages: list[Row[Any]]) -> int:
    """Make a profile hold exactly these packages; return its generation. Raises nix.Collision."""
    entries = [
        nix.ProfilePackage(package.name, package.version, tuple(package.store_paths))
        for package in sorted(packages, key=lambda package: package.id)
    ]
    store = services.get(nix.Store)
    nix.set_profile(store, profile, entries, tmp=current_app.config["DATA_DIR"] / "tmp")
    return int(profile.readlink().name.split("-")[-2])


def record(number: int, packages: list[Row[Any]], reason: Reason, by: str | None) -> None:
    """Write down that the profile has become this generation, with these packages."""
    if db.session.get(Generation, number) is None:
        held = sorted(map(entry, packages), key=itemgetter("id"))
        db.session.add(Generation(number=number, packages=held))
        db.session.flush()
    db.session.add(Change(generation=number, reason=reason, by=by))
    Package.follow_profile([package.id for package in packages])
    db.session.commit()


def adopt(entries: list[dict[str, Any]]) -> list[Row[Any]]:
    """Return the packages of a generation, registered and rooted again where they no longer are."""
    return [_adopt(entry) for entry in entries]


def _after_activation(package_id: int) -> tuple[Row[Any], list[Row[Any]]]:
    """Return the package to activate, and the others that will be active then."""
    wanted = db.session.execute(columns().where(Package.id == package_id)).one()
    if wanted.status == PackageStatus.CREATED:
        raise NotDownloaded(f"{wanted.name} {wanted.version} is not downloaded")
    return wanted, [package for package in active() if package.name != wanted.name]


def _set(packages: list[Row[Any]], reason: Reason, by: str | None) -> None:
    before = current()
    after = set_packages(current_app.config["PROFILE"], packages)
    if after != before:
        _check(before, after)
        record(after, packages, reason, by)


def _switch(number: int, by: str | None, reason: Reason) -> None:
    there = db.session.get(Generation, number)
    if there is None or not generation_link(number).is_symlink():
        raise NoSuchGeneration(f"there is no generation {number}")
    before = current()
    if number == before:
        return
    packages = adopt(there.packages)
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    nix.switch_generation(store, profile, number)
    _check(before, number)
    record(number, packages, reason, by)


def _active_before() -> int:
    """Return the last generation but the current one that was active and still exists."""
    latest_first = select(Change.generation).order_by(Change.id.desc())
    now = current()
    for number in db.session.scalars(latest_first):
        if number != now and generation_link(number).is_symlink():
            return number
    raise NoSuchGeneration("no other generation was active before")


def _check(before: int | None, number: int) -> None:
    """Run the operator's check on the new generation; where it refuses, go back and raise."""
    command = shlex.split(current_app.config["PROFILE_CHECK"])
    if not command:
        return
    environ = services.get(nix.Store).environ
    argv = [*command, str(generation_link(number))]
    try:
        done = nix.run(argv, environ=environ, seconds=CHECK_SECONDS)
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        failed = f"exit code {done.code}: {said}" if done.code else None
    except nix.NixError as error:
        failed = str(error)
    if failed is not None:
        _go_back(before, number)
        raise CheckFailed(f"the check of generation {number} failed with {failed}")


def _go_back(before: int | None, refused: int) -> None:
    """Make the profile what it was, and forget a generation that nothing has recorded."""
    store, profile = services.get(nix.Store), current_app.config["PROFILE"]
    if before is None:
        profile.unlink()
        generation_link(refused).unlink()
        return
    nix.switch_generation(store, profile, before)
    if db.session.get(Generation, refused) is None:
        nix.delete_generations(store, profile, [refused])


def _adopt(entry: dict[str, Any]) -> Row[Any]:
    named = Package.name == entry["name"], Package.version == entry["version"]
    package = db.session.scalar(select(Package).where(*named))
    if package is None:
        package = Package(name=entry["name"], version=entry["version"])
        db.session.add(package)
    if package.store_paths != entry["store_paths"]:
        log.warning("%s %s is taken up again from the profile", package.name, package.version)
        size = nix.closure_size(services.get(nix.Store), entry["store_paths"])
        package.take(entry["store_paths"], size)
    db.session.commit()
    ensure_rooted(package.id, entry["store_paths"])
    return db.session.execute(columns().where(*named)).one()


def ensure_rooted(package_id: int, store_paths: list[str]) -> bool:
    """Give a package's store paths their roots; tell whether any was missing."""
    data_dir, store = current_app.config["DATA_DIR"], services.get(nix.Store)
    if roots.is_kept(data_dir, package_id, store_paths):
        return False
    roots.remove(data_dir, package_id)
    for number, store_path in enumerate(store_paths):
        nix.add_root(store, store_path, roots.link(data_dir, package_id, number))
    return True


def entry(package: Row[Any]) -> dict[str, Any]:
    return {
        "id": package.id,
        "name": package.name,
        "version": package.version,
        "store_paths": package.store_paths,
    }


def _size(packages: list[Row[Any]]) -> int:
    """Return the bytes of all that these packages need together."""
    paths = [path for package in packages for path in package.store_paths]
    return nix.closure_size(services.get(nix.Store), paths) if paths else 0
