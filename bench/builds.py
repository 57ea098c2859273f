"""Builds: downloads and activations by pkgd, and by Nix's own commands."""

import servers
from workbench import MILLISECONDS, SCRIPT, SECONDS, added, bench, pinned

PACKAGES = 64
VERBOSE_PACKAGES = 4
STORED_PACKAGES = 8
PIN_ATTRIBUTES = 20_000  # nix-build evaluates nixpkgs 18.03 for as long as a pin of so many
STORED = "a download of what is in the store"
ACTIVATION = "an activation"
APPLY = f"{PACKAGES} downloaded packages applied in one generation"
MANY = f"{PACKAGES} packages, 4 at once"
VERBOSE = f"{VERBOSE_PACKAGES} packages with a log of 10 MiB, 4 at once"
PKGD = "pkgd"
FROM_PIN = "pkgd, from an indexed and verified pin"
FROM_LARGE_PIN = f"pkgd, from one with {PIN_ATTRIBUTES:,} attributes"
BY_NIX = "nix-instantiate, nix-build"
IN_PIN = "nix-build --attr, in the pin"
IN_LARGE_PIN = f"nix-build --attr, in the one with {PIN_ATTRIBUTES:,} attributes"
BY_NIX_BUILD = "nix-build of the recorded .drv"
BY_NIX_ENV = "nix-env --set"
BY_XARGS = "xargs -P 4"
LOG_BYTES = 10 * servers.MIB
TREE_SCRIPT = 'mkdir -p "$out/share"; echo made >"$out/share/$(basename "$out")"'
VERBOSE_SCRIPT = f"head -c {LOG_BYTES} /dev/zero | tr '\\0' x | fold -w 99; touch $out"


def measure(results, effort):
    """Measure pkgd and Nix's commands in turn: single packages, then many at once."""
    others = PIN_ATTRIBUTES - STORED_PACKAGES
    with bench() as it, pinned(STORED_PACKAGES) as small, pinned(STORED_PACKAGES, others) as large:
        for _ in range(effort.rounds):
            _measure_stored(results, it)
            _measure_stored_from_pin(results, *small, IN_PIN, FROM_PIN, BY_NIX_BUILD)
            _measure_stored_from_pin(results, *large, IN_LARGE_PIN, FROM_LARGE_PIN)
            _measure_activations(results, it)
        for _ in range(effort.batches):
            _measure_many(results, it, MANY, PACKAGES)
            _measure_many(results, it, VERBOSE, VERBOSE_PACKAGES, VERBOSE_SCRIPT)


def _measure_stored(results, it):
    """Download packages that are already in the store."""
    names = it.add_packages(STORED_PACKAGES)
    package_ids = it.register(names)
    it.build(names)
    by_nix = it.build(names)
    by_pkgd = it.download_in_turn(package_ids)
    _add_stored(results, {BY_NIX: by_nix, PKGD: by_pkgd})


def _measure_stored_from_pin(results, it, names, in_pin, from_pin, by_nix_build=None):
    """Download packages of a pin again, which stay in the store after they are forgotten.

    The last three are what the results call nix-build, pkgd, and nix-build once more: a user would
    give it the pin and an attribute. To give it the derivation, which pkgd has recorded, is the
    strictest reading, where that is wanted: it then need not even know the catalog.
    """
    package_ids = it.register(names)
    it.download(package_ids)
    drv_paths = [it.service.get(f"package/{one}")["drv_path"] for one in package_ids]
    it.forget(package_ids)

    package_ids = it.register(names)
    taken = {in_pin: added(it.nix_build(it.pin, "--attr", name) for name in names)}
    if by_nix_build:
        taken[by_nix_build] = added(map(it.nix_build, drv_paths))
    taken[from_pin] = it.download_in_turn(package_ids)
    _add_stored(results, taken)
    it.forget(package_ids)


def _add_stored(results, taken):
    """Add what downloads took, by subject, as those of one download."""
    for subject, all_of_them in taken.items():
        all_of_them.add_to(results, STORED, subject, MILLISECONDS, STORED_PACKAGES)
        all_of_them.add_cpu_to(results, STORED, subject, MILLISECONDS, STORED_PACKAGES)


def _measure_activations(results, it):
    names = it.add_packages(2, TREE_SCRIPT)
    package_ids = it.register(names)
    it.build(names)
    it.download(package_ids)
    for name, package_id in zip(names, package_ids, strict=True):
        it.set_profile(name).add_to(results, ACTIVATION, BY_NIX_ENV, MILLISECONDS)
        it.activate(package_id).add_to(results, ACTIVATION, PKGD, MILLISECONDS)
        it.service.post(f"package/{package_id}/deactivate")


def measure_applies(results, effort):
    """Measure an apply of many packages, and the command that it runs."""
    with bench() as it:
        for _ in range(effort.batches):
            names = it.add_packages(PACKAGES, TREE_SCRIPT)
            package_ids = it.register(names)
            it.download(package_ids)
            it.set_all(package_ids).add_to(results, APPLY, BY_NIX_ENV, MILLISECONDS)
            it.apply(names).add_to(results, APPLY, PKGD, MILLISECONDS)


def _measure_many(results, it, what, count, script=SCRIPT):
    package_ids = it.register(it.add_packages(count, script))
    by_pkgd = it.download(package_ids)
    by_xargs = it.build(it.add_packages(count, script), at_once=4)
    for subject, taken in ((PKGD, by_pkgd), (BY_XARGS, by_xargs)):
        taken.add_to(results, what, subject, SECONDS)
        taken.add_cpu_to(results, what, subject, SECONDS)
