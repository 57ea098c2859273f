"""Plans: which packages a profile would hold after a change, whether it can, and building it."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import current_app

import nix
import services
from errors import InvalidInput, NoSuchPackage, NotDownloaded
from models import AnyRow, Package, PackageStatus, db
from profiles import history
from profiles.history import History


def plan(profile: History, package_ids: Sequence[int]) -> dict[str, Any]:
    """Return what activating packages would change, without doing it, as `difference` does.

    `status` is `activated` where all of them are. Raises NoSuchPackage, NotDownloaded, InvalidInput
    for two versions of one name, or nix.ProfileRefused.
    """
    wanted, others = after_activation(profile, package_ids)
    told = difference(profile.active(), [*wanted, *others])
    status = PackageStatus.DOWNLOADED if told["added"] else PackageStatus.ACTIVATED
    return {"status": status, **told}


def difference(before: list[AnyRow], after: list[AnyRow]) -> dict[str, Any]:
    """Return what changes when a profile that holds some packages comes to hold others.

    `closure_size_change` is in bytes. Raises nix.ProfileRefused where it could not hold them.
    """
    try_out(after)
    staying = {package.id for package in before} & {package.id for package in after}
    added = [package for package in after if package.id not in staying]
    removed = [package for package in before if package.id not in staying]
    versions = {package.name: package.version for package in added}
    return {
        "added": added,
        "removed": removed,
        "replaced": [
            {"name": old.name, "old": old.version, "new": versions[old.name]}
            for old in removed
            if old.name in versions
        ],
        "closure_size_change": closure_size(after) - closure_size(before),
    }


def try_out(packages: list[AnyRow]) -> None:
    """Raise nix.ProfileRefused where no profile can hold these packages."""
    with TemporaryDirectory(dir=current_app.config["DATA_DIR"]) as folder:
        build(Path(folder) / "profile", in_order(packages))


def build(
    profile: Path, packages: list[nix.ProfilePackage], beat: Callable[[], None] = lambda: None
) -> int:
    """Make a profile hold exactly these packages; return its generation.

    `beat` is called meanwhile, and ends it by raising. Raises nix.ProfileRefused.
    """
    tmp = current_app.config["DATA_DIR"] / "tmp"
    return nix.set_profile(services.get(nix.Store), profile, packages, tmp=tmp, beat=beat)


def in_order(packages: Iterable[AnyRow]) -> list[nix.ProfilePackage]:
    """Return the packages for a profile: in another order they would be another generation."""
    return [_profile_package(package) for package in sorted(packages, key=attrgetter("id"))]


def after_activation(
    profile: History, package_ids: Sequence[int]
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Return the packages to activate, and the others that will be active then."""
    wanted = wanted_packages(package_ids)
    for package in wanted:
        if package.status == PackageStatus.CREATED:
            raise NotDownloaded(name=package.name, version=package.version)
    check_new(profile, wanted)
    names = {package.name for package in wanted}
    return wanted, [package for package in profile.active() if package.name not in names]


def check_new(profile: History | None, packages: Iterable[AnyRow]) -> None:
    """Raise nix.ProfileRefused for packages of which a profile would hold nothing.

    Only new ones are checked: what is in the profile since earlier may stay there.
    """
    held = {package.id for package in profile.active()} if profile else set()
    for package in packages:
        if package.id not in held:
            nix.check_activatable(services.get(nix.Store), _profile_package(package))


def wanted_packages(package_ids: Sequence[int]) -> list[AnyRow]:
    """Return the packages of these ids, each of another name."""
    rows = db.session.execute(history.PACKAGES.where(Package.id.in_(package_ids)))
    found = {package.id: package for package in rows}
    by_name: dict[str, AnyRow] = {}
    for package_id in package_ids:
        if package_id not in found:
            raise NoSuchPackage(package_id=package_id)
        package = found[package_id]
        other = by_name.setdefault(package.name, package)
        if other is not package:
            both = f"{other.name} {other.version} and {package.version}"
            raise InvalidInput(
                errors={"ids": [f"A profile holds one version of a name, not {both}."]}
            )
    return list(by_name.values())


def closure_size(packages: list[AnyRow]) -> int:
    """Return the bytes of all that these packages need together."""
    paths = [path for package in packages for path in package.store_paths]
    return nix.closure_size(services.get(nix.Store), paths) if paths else 0


def _profile_package(package: AnyRow) -> nix.ProfilePackage:
    return nix.ProfilePackage(package.name, package.version, tuple(package.store_paths))
