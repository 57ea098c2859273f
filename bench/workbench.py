"""A service with a store and a catalog, and Nix's own commands on the same two."""

import json
import resource
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import servers
from recipes import Recipes

import nix
from nix.profile import ACTIVATE

MILLISECONDS, SECONDS = "ms", "s"
SCALES = {MILLISECONDS: 1000, SECONDS: 1}
WAIT_SECONDS = 600
SCRIPT = "echo made >$out"
PIN = "pin"
BUILD = 'nix-build "$(nix-instantiate {catalog} --attr $1)" --out-link {roots}/$1'


class Taken(NamedTuple):
    """What something took: the seconds that passed, and those of CPU time."""

    seconds: float
    cpu: float

    def add_to(self, results, what, subject, unit, parts=1):
        """Add the time that one of so many equal parts took."""
        results.series(what, subject, unit).add(SCALES[unit] * self.seconds / parts)

    def add_cpu_to(self, results, what, subject, unit, parts=1):
        """Add the CPU time of one of so many equal parts."""
        results.series(what, subject, f"{unit} of CPU").add(SCALES[unit] * self.cpu / parts)


def added(parts):
    """Return what all parts took together."""
    return Taken(*map(sum, zip(*parts, strict=True)))


class Bench:
    """A service with a store and a catalog, and Nix's own commands on the same two."""

    def __init__(self, folder, service, recipes):
        """Take a running service and the catalog that it was started with."""
        self.folder, self.service, self.recipes = folder, service, recipes
        environ = dict(nix.private_store(folder / "nix").environ)
        self.environ = {**environ, "TMPDIR": str(folder)}
        self.roots = folder / "bare-roots"
        self.roots.mkdir()
        self._added = 0

    # --- by Nix's commands ---

    def build(self, names, at_once=1):
        """Build packages of the catalog; return what that took."""
        script = BUILD.format(catalog=self.recipes.catalog, roots=self.roots)
        argv = ["xargs", "-P", str(at_once), "-n", "1", "sh", "-c", script, "sh"]
        return self._run(argv, input="\n".join(names))

    def nix_build(self, *what):
        """Build what nix-build is told to; return what that took."""
        return self._run(["nix-build", *what, "--out-link", self.roots / "result"])

    @property
    def pin(self):
        """The catalog that `pinned` has added, in the store."""
        return (self.folder / "data" / "pins" / PIN).resolve()

    def set_profile(self, name):
        """Set a profile to a package that was built; return what that took."""
        root = (self.roots / name).resolve()
        return self._run(["nix-env", "--profile", self.folder / "bare-profile", "--set", root])

    def set_all(self, package_ids):
        """Set a profile to packages by the one command that the service uses; return what it took.

        They are given in the opposite order, which makes another generation.
        """
        rows = [self.service.get(f"package/{one}") for one in reversed(package_ids)]
        packages = [{**row, "paths": [row["store_path"]]} for row in rows]
        kept = ("name", "version", "paths")
        text = json.dumps([{name: package[name] for name in kept} for package in packages])
        (self.folder / "packages.json").write_text(text)
        return self._run(
            [
                *("nix-env", "--profile", self.folder / "bare-set", "--file", ACTIVATE),
                *("--argstr", "packages", self.folder / "packages.json"),
                *("--set", "--attr", ""),
            ]
        )

    def _run(self, argv, **more):
        with self._taken(children_cpu_seconds) as taken:
            subprocess.run(
                argv, env=self.environ, check=True, capture_output=True, text=True, **more
            )
        return taken()

    # --- by the service ---

    def add_packages(self, count, script=SCRIPT):
        """Add packages to the catalog that were never built; return their names."""
        first = self._added
        self._added += count
        return [self.recipes.add(f"made{number}", script) for number in range(first, self._added)]

    def register(self, names):
        """Register packages; return their ids."""
        return [self.service.register(name, "1.0.0") for name in names]

    def forget(self, package_ids):
        """Forget packages; what was built of them stays in the store."""
        for package_id in package_ids:
            self.service.request("DELETE", f"package/{package_id}").raise_for_status()

    def download(self, package_ids):
        """Download packages; return what it took until the last task ended."""
        with self._taken(self._service_cpu_seconds) as taken:
            tasks = [self.service.post(f"package/{one}/download")["task_id"] for one in package_ids]
            for task_id in tasks:
                self._succeeded(task_id)
        return taken()

    def download_in_turn(self, package_ids):
        """Download packages, each after the one before; return what all took."""
        with self._taken(self._service_cpu_seconds) as taken:
            for package_id in package_ids:
                self.download([package_id])
        return taken()

    def activate(self, package_id):
        """Activate a package; return what that took."""
        with self._taken(self._service_cpu_seconds) as taken:
            self.service.post(f"package/{package_id}/activate")
        return taken()

    def apply(self, names):
        """Apply packages to a profile; return what that took."""
        body = {"packages": [{"name": name, "version": "1.0.0"} for name in names]}
        with self._taken(self._service_cpu_seconds) as taken:
            answer = self.service.request("PUT", "profile/applied", json=body)
            self._succeeded(answer.json()["task_id"])
        return taken()

    def _succeeded(self, task_id):
        task = self.service.ended(task_id, seconds=WAIT_SECONDS)
        assert task["status"] == "succeeded", task

    def _service_cpu_seconds(self):
        return servers.cpu_seconds(self.service)

    @contextmanager
    def _taken(self, cpu_seconds):
        """Yield a function that returns what the `with` block took."""
        before = cpu_seconds()
        with stopwatch() as elapsed:
            yield lambda: taken
        taken = Taken(elapsed(), cpu_seconds() - before)


def children_cpu_seconds():
    """Return the CPU time of this process's children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        catalogs = {"CATALOGS": recipes.catalog}
        with servers.pkgd(folder, **{**catalogs, **settings}) as service:
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


@contextmanager
def pinned(count, others=0):
    """Yield a Bench whose catalog is an indexed and verified pin, and so many names in it.

    `others` is how many attributes it has beside those packages: functions, which nix-build reads
    and leaves alone as it does packages that it is not asked for, and which nobody has to verify.
    """
    with tempfile.TemporaryDirectory() as name:
        empty, source = Path(name, "empty"), Recipes(Path(name).resolve())
        empty.mkdir()
        (empty / "default.nix").write_text("{ }")
        names = [source.add(f"pinned{number}", SCRIPT) for number in range(count)]
        _add_functions(source.catalog, others)
        with tarfile.open(f"{name}/catalog.tar.gz", "w:gz") as file:
            file.add(source.catalog, "catalog")

        def add_pin(service):
            done = service.command("catalog", "add", PIN, f"file://{name}/catalog.tar.gz")
            assert done.returncode == 0, done.stderr

        indexed = {"INDEX_BYTES": servers.INDEX_BYTES, "INDEX_VERIFY": "true"}
        with bench(add_pin, CATALOGS=empty, **indexed) as it:
            servers.await_indexes(it.service)
            yield it, names


def _add_functions(catalog, count):
    """Add attributes to a catalog that are functions."""
    (catalog / "default.nix").rename(catalog / "packages.nix")
    functions = "".join(f'  other{number} = _: "other{number}";\n' for number in range(count))
    (catalog / "default.nix").write_text(f"import ./packages.nix // {{\n{functions}}}\n")
