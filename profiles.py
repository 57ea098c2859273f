"""The profile: what is active. One caller at a time changes it, atomically.

Every change takes the lock, reads the database, runs Nix and then the operator's check, and writes
the record. After a crash in between, reconciliation makes the record follow the profile.
"""

import fcntl
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import current_app
from sqlalchemy import select

import gc_roots
import nix
import services
from errors import Busy, CheckFailed, NoSuchGeneration, NoSuchPackage, NotDownloaded
from models import AnyRow, Change, Generation, Package, PackageStatus, Reason, db

log = logging.getLogger("pkgd.profiles")

CHECK_SECONDS = 60
LOCK_SECONDS = 30  # how long a request waits for its turn to change the profile
LOCK_POLL_SECONDS = 0.02


def activate(package_id: int, by: str | None) -> None:
    """Put a package in the profile, in place of another version of its name.

    Raises NotDownloaded, CheckFailed, Busy, or nix.ProfileRefused, such as nix.Collision when
    another active package has the same file; the profile is then what it was.
    """
    with locked():
        wanted, others = _after_activation(package_id)
        is_replacement = any(package.name == wanted.name for package in active())
        _set([wanted, *others], Reason.REPLACE if is_replacement else Reason.ACTIVATE, by)


def deactivate(package_id: int, by: str | None) -> None:
    """Take a package out of the profile; do nothing where it isn't in it. Raises CheckFailed."""
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

    `closure_size_change` is in bytes. Raises NotDownloaded, or nix.ProfileRefused.
    """
    wanted, others = _after_activation(package_id)
    before, after = active(), [wanted, *others]
    with TemporaryDirectory(dir=current_app.config["DATA_DIR"]) as folder:
        set_packages(Path(folder) / "profile", after)

    staying = {package.id for package in before} & {package.id for package in after}
    removed = [package for package in before if package.id not in staying]
    return {
        "added": [package for package in after if package.id not in staying],
        "removed": removed,
        "replaced": [
            {"name": old.name, "old": old.version, "new": wanted.version} for old in removed
        ],
        "closure_size_change": _closure_size(after) - _closure_size(before),
    }


def active() -> list[AnyRow]:
    """Return the packages that are activated according to the database, oldest first."""
    is_active = Package.status == PackageStatus.ACTIVATED
    return list(db.session.execute(packages().where(is_active).order_by(Package.id)).all())


def packages() -> Any:
    """Select the columns of packages that a profile is made of."""
    return select(Package.id, Package.name, Package.version, Package.status, Package.store_paths)


def current() -> int | None:
    """Return the number of the active generation; None when there is no profile."""
    profile: Path = current_app.config["PROFILE"]
    return nix.current_generation(profile)


def generation_link(number: int) -> Path:
    """Return the link that Nix keeps for a generation."""
    profile: Path = current_app.config["PROFILE"]
    return nix.generation_link(profile, number)


@contextmanager
def locked(seconds: float | None = None) -> Iterator[None]:
    """Let one caller at a time, of all processes, change what is in the profile or the store.

    Raises Busy after waiting for `seconds`, which are LOCK_SECONDS by default.
    """
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    # Nix itself locks profile.lock, which therefore can't be this file.
    path: Path = current_app.config["DATA_DIR"] / "changes.lock"
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise Busy(what="another change of the profile or the store is going on")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def set_packages(profile: Path, packages: list[AnyRow]) -> int:
    """Make a profile hold exactly these packages; return its generation.

    Raises nix.ProfileRefused.
    """
    entries = [
        _profile_package(package) for package in sorted(packages, key=lambda package: package.id)
    ]
    tmp = current_app.config["DATA_DIR"] / "tmp"
    return nix.set_profile(services.get(nix.Store), profile, entries, tmp=tmp)


def record(number: int, packages: list[AnyRow], reason: Reason, by: str | None) -> None:
    """Write down that the profile has become this generation, with these packages."""
    if db.session.get(Generation, number) is None:
        held = sorted(map(entry, packages), key=itemgetter("id"))
        db.session.add(Generation(number=number, packages=held))
        db.session.flush()
    db.session.add(Change(generation=number, reason=reason, by=by))
    Package.follow_profile([package.id for package in packages])
    db.session.commit()


def entry(package: AnyRow) -> dict[str, Any]:
    """Return what a generation's record holds of a package."""
    return {
        "id": package.id,
        "name": package.name,
        "version": package.version,
        "store_paths": package.store_paths,
    }


def adopt(entries: list[dict[str, Any]]) -> list[AnyRow]:
    """Return the packages of a generation, registered and rooted again where they no longer are."""
    return [_adopt(entry) for entry in entries]


def ensure_rooted(package_id: int, store_paths: list[str]) -> bool:
    """Give a package's store paths their GC roots; return True when one was missing."""
    data_dir = current_app.config["DATA_DIR"]
    if gc_roots.are_complete(data_dir, package_id, store_paths):
        return False

    gc_roots.remove(data_dir, package_id)
    for number, store_path in enumerate(store_paths):
        link = gc_roots.link(data_dir, package_id, number)
        nix.add_root(services.get(nix.Store), store_path, link)
    return True


def _profile_package(package: AnyRow) -> nix.ProfilePackage:
    return nix.ProfilePackage(package.name, package.version, tuple(package.store_paths))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _after_activation(package_id: int) -> tuple[AnyRow, list[AnyRow]]:
    """Return the package to activate, and the others that will be active then."""
    wanted = db.session.execute(packages().where(Package.id == package_id)).one_or_none()
    if wanted is None:
        raise NoSuchPackage(package_id=package_id)
    if wanted.status == PackageStatus.CREATED:
        raise NotDownloaded(name=wanted.name, version=wanted.version)
    # Only the new package is checked: what is in the profile since earlier may stay there.
    if wanted.status == PackageStatus.DOWNLOADED:
        nix.check_activatable(services.get(nix.Store), _profile_package(wanted))
    return wanted, [package for package in active() if package.name != wanted.name]


def _set(packages: list[AnyRow], reason: Reason, by: str | None) -> None:
    before = current()
    after = set_packages(current_app.config["PROFILE"], packages)
    if after != before:
        _check(before, after)
        record(after, packages, reason, by)


def _switch(number: int, by: str | None, reason: Reason) -> None:
    generation = db.session.get(Generation, number)
    if generation is None or not generation_link(number).is_symlink():
        raise NoSuchGeneration(number=number)
    before = current()
    if number == before:
        return

    packages = adopt(generation.packages)
    nix.switch_generation(services.get(nix.Store), current_app.config["PROFILE"], number)
    _check(before, number)
    record(number, packages, reason, by)


def _active_before() -> int:
    """Return the last generation but the current one that was active and still exists."""
    latest_first = select(Change.generation).order_by(Change.id.desc())
    now = current()
    for number in db.session.scalars(latest_first):
        if number != now and generation_link(number).is_symlink():
            return number
    raise NoSuchGeneration(detail="no other generation was active before")


def _check(before: int | None, number: int) -> None:
    """Run the operator's check on the new generation; where it fails, go back and raise."""
    failure = _check_failure(generation_link(number))
    if failure is not None:
        _go_back(before, number)
        raise CheckFailed(number=number, failure=failure)


def _check_failure(generation: Path) -> str | None:
    """Return how PROFILE_CHECK failed; None when it passed, or there is none."""
    command = shlex.split(current_app.config["PROFILE_CHECK"])
    if not command:
        return None

    environ = services.get(nix.Store).environ
    try:
        done = nix.run([*command, str(generation)], environ=environ, seconds=CHECK_SECONDS)
    except nix.NixError as error:
        return str(error)
    output = nix.decode(done.stdout + done.stderr).strip()
    return f"exit code {done.code}: {output}" if done.code else None


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


def _adopt(entry: dict[str, Any]) -> AnyRow:
    is_same = Package.name == entry["name"], Package.version == entry["version"]
    package = db.session.scalar(select(Package).where(*is_same))
    if package is None:
        Package.register(entry["name"], entry["version"])  # a request may be faster
        package = db.session.scalars(select(Package).where(*is_same)).one()

    store_paths = entry["store_paths"]
    if package.store_paths != store_paths:
        log.warning("%s %s is taken up again from the profile", package.name, package.version)
        size = nix.closure_size(services.get(nix.Store), store_paths)
        package.set_downloaded(store_paths, size)
    db.session.commit()
    ensure_rooted(package.id, store_paths)
    return db.session.execute(packages().where(*is_same)).one()


def _closure_size(packages: list[AnyRow]) -> int:
    """Return the bytes of all that these packages need together."""
    paths = [path for package in packages for path in package.store_paths]
    return nix.closure_size(services.get(nix.Store), paths) if paths else 0
