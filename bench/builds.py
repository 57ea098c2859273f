"""Builds: downloads and activations by pkgd, and by Nix's own commands."""

import json
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import servers
from recipes import Recipes
from support import until
from tarballs import catalog, tarball

import nix
from nix.profile import ACTIVATE

PACKAGES = 64
VERBOSE_PACKAGES = 4
STORED = "a download of what is in the store"
PINNED = "a download of what is in the store, from a verified pin"
ACTIVATION = "an activation"
APPLY = f"{PACKAGES} downloaded packages applied in one generation"
MANY = f"{PACKAGES} packages, 4 at once"
VERBOSE = f"{VERBOSE_PACKAGES} packages with a log of 10 MiB, 4 at once"
BY_NIX = "nix-instantiate, nix-build"
BY_NIX_BUILD = "nix-build"
BY_XARGS = "xargs -P 4"
LOG_BYTES = 10 * servers.MIB
WAIT_SECONDS = 600
TRIVIAL_SCRIPT = "echo made >$out"
TREE_SCRIPT = 'mkdir -p "$out/share"; echo made >"$out/share/$(basename "$out")"'
VERBOSE_SCRIPT = f"head -c {LOG_BYTES} /dev/zero | tr '\\0' x | fold -w 99; touch $out"
BUILD = 'nix-build "$(nix-instantiate {catalog} --attr $1)" --out-link {roots}/$1'


class Bench:
    """A service with a store and a catalog, and Nix's own commands on the same two."""

    def __init__(self, folder, service, recipes):
        """Take a running service and the catalog that it was started with."""
        self.folder, self.service, self.recipes = folder, service, recipes
        environ = dict(nix.private_store(folder / "nix").environ)
        self.environ = {**environ, "TMPDIR": str(folder)}
        self._added = 0

    def add_packages(self, count, script=TRIVIAL_SCRIPT):
        """Add packages to the catalog that were never built; return their names."""
        first = self._added
        self._added += count
        return [self.recipes.add(f"made{number}", script) for number in range(first, self._added)]

    def build(self, names, at_once=1):
        """Build packages with Nix's commands; return the time taken in seconds."""
        roots = self.folder / "bare-roots"
        roots.mkdir(exist_ok=True)
        script = BUILD.format(catalog=self.recipes.catalog, roots=roots)
        argv = ["xargs", "-P", str(at_once), "-n", "1", "sh", "-c", script, "sh"]
        with stopwatch() as elapsed:
            self._run(argv, input="\n".join(names))
        return elapsed()

    def build_pinned(self, name):
        """Build a package of the pin with one command of Nix; return the time taken in seconds."""
        pin, root = self.folder / "data" / "pins" / "pin", self.folder / "bare-pinned"
        with stopwatch() as elapsed:
            self._run(["nix-build", pin, "--attr", name, "--out-link", root])
        return elapsed()

    def is_verified(self):
        """Tell whether the indexes of all catalogs are verified."""
        catalogs = self.service.get("catalogs")
        return all(one["verification"] == "current" for one in catalogs)

    def register(self, names):
        """Register packages with the service; return their ids."""
        return [self.service.register(name, "1.0.0") for name in names]

    def download(self, package_ids):
        """Download packages with the service; return the seconds until the last task ended."""
        with stopwatch() as elapsed:
            tasks = [self.service.post(f"package/{one}/download")["task_id"] for one in package_ids]
            for task_id in tasks:
                task = self.service.ended(task_id, seconds=WAIT_SECONDS)
                assert task["status"] == "succeeded", task
        return elapsed()

    def activate(self, package_id):
        """Activate a package with the service; return the time taken in seconds."""
        with stopwatch() as elapsed:
            self.service.post(f"package/{package_id}/activate")
        return elapsed()

    def set_profile(self, name):
        """Set a profile to a package with Nix's command; return the time taken in seconds."""
        root = (self.folder / "bare-roots" / name).resolve()
        with stopwatch() as elapsed:
            self._run(["nix-env", "--profile", self.folder / "bare-profile", "--set", root])
        return elapsed()

    def apply(self, names):
        """Have the service apply packages to a profile; return the time taken in seconds."""
        body = {"packages": [{"name": name, "version": "1.0.0"} for name in names]}
        with stopwatch() as elapsed:
            answer = self.service.request("PUT", "profile/applied", json=body)
            task = self.service.ended(answer.json()["task_id"])
        assert task["status"] == "succeeded", task
        return elapsed()

    def set_all(self, package_ids):
        """Set a profile to packages by the one command that the service uses; return the seconds.

        They are given in the opposite order, which makes another generation.
        """
        rows = [self.service.get(f"package/{one}") for one in reversed(package_ids)]
        packages = [{**row, "paths": [row["store_path"]]} for row in rows]
        kept = ("name", "version", "paths")
        text = json.dumps([{name: package[name] for name in kept} for package in packages])
        (self.folder / "packages.json").write_text(text)
        with stopwatch() as elapsed:
            self._run(
                [
                    *("nix-env", "--profile", self.folder / "bare-set", "--file", ACTIVATE),
                    *("--argstr", "packages", self.folder / "packages.json"),
                    *("--set", "--attr", ""),
                ]
            )
        return elapsed()

    def _run(self, argv, **more):
        subprocess.run(argv, env=self.environ, check=True, capture_output=True, text=True, **more)


@contextmanager
def stopwatch():
    """Yield a function that returns the seconds since the `with` block began."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started


@contextmanager
def bench(prepare=lambda _: None, **settings):
    """Yield a Bench with a running service; call `prepare` with the service before it starts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        recipes = Recipes(folder)
        with servers.pkgd(folder, CATALOGS=recipes.catalog, **settings) as service:
            # keep the connection open between requests, as ordinary clients do
            service.session.headers.pop("Connection")
            service.command("init-db")
            prepare(service)
            service.start().sign_in()
            try:
                yield Bench(folder, service, recipes)
            finally:
                service.stop()
        subprocess.run(["chmod", "-R", "u+w", folder / "nix"], check=True)


def measure(results, rounds, batches):
    """Measure pkgd and Nix's commands in turn: single packages `rounds` times, many `batches`."""
    with bench() as it:
        for _ in range(rounds):
            _measure_stored(results, it)
            _measure_activations(results, it)
        for _ in range(batches):
            _measure_many(results, it, MANY, PACKAGES, TRIVIAL_SCRIPT)
            _measure_many(results, it, VERBOSE, VERBOSE_PACKAGES, VERBOSE_SCRIPT)


def _measure_stored(results, it):
    """Download a package that is already in the store."""
    (name,) = it.add_packages(1)
    (package_id,) = it.register([name])
    it.build([name])
    results.series(STORED, BY_NIX, "ms").add(1000 * it.build([name]))
    results.series(STORED, "pkgd", "ms").add(1000 * it.download([package_id]))


def measure_pinned(results, rounds):
    """Measure downloads of what is in the store from a verified pin, and nix-build on that pin."""
    names = [f"pinned{number}" for number in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        text = catalog(**dict.fromkeys(names, "1.0.0"))
        url = tarball(Path(folder) / "pin.tar.gz", default_nix=text)
        with bench(lambda service: service.command("catalog", "add", "pin", url)) as it:
            until(it.is_verified, WAIT_SECONDS)
            for name in names:
                (package_id,) = it.register([name])
                it.build_pinned(name)
                results.series(PINNED, BY_NIX_BUILD, "ms").add(1000 * it.build_pinned(name))
                results.series(PINNED, "pkgd", "ms").add(1000 * it.download([package_id]))


def _measure_activations(results, it):
    names = it.add_packages(2)
    package_ids = it.register(names)
    it.build(names)
    it.download(package_ids)
    for name, package_id in zip(names, package_ids, strict=True):
        results.series(ACTIVATION, "nix-env --set", "ms").add(1000 * it.set_profile(name))
        results.series(ACTIVATION, "pkgd", "ms").add(1000 * it.activate(package_id))
        it.service.post(f"package/{package_id}/deactivate")


def measure_applies(results, rounds):
    """Measure an apply of many packages, and the command that it runs."""
    with bench() as it:
        for _ in range(rounds):
            names = it.add_packages(PACKAGES, TREE_SCRIPT)
            package_ids = it.register(names)
            it.download(package_ids)
            bare = it.set_all(package_ids)
            results.series(APPLY, "nix-env --set", "ms").add(1000 * bare)
            results.series(APPLY, "pkgd", "ms").add(1000 * it.apply(names))


def _measure_many(results, it, what, count, script):
    package_ids = it.register(it.add_packages(count, script))
    results.series(what, "pkgd", "s").add(it.download(package_ids))
    seconds = it.build(it.add_packages(count, script), at_once=4)
    results.series(what, BY_XARGS, "s").add(seconds)
