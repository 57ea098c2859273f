"""Working: downloads and activations, side by side with the bare commands of Nix."""

import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import contestants
from recipes import Recipes

import nix

PACKAGES = 64
TALKERS = 4
STORED = "a download of what is in the store"
MANY = f"{PACKAGES} packages, 4 at once"
TALKATIVE_ONES = f"{TALKERS} packages with a log of 10 MiB, 4 at once"
BARE = "nix-instantiate, nix-build"
XARGS = "xargs -P 4"
LOG_BYTES = 10 * contestants.MIB
WAIT_SECONDS = 600
TRIVIAL = "echo made >$out"
TALKATIVE = f"head -c {LOG_BYTES} /dev/zero | tr '\\0' x | fold -w 99; touch $out"
BUILD = 'nix-build "$(nix-instantiate {catalog} --attr $1)" --out-link {roots}/$1'


class Bench:
    """A service with a store and a catalog of its own, and the bare commands on the same two."""

    def __init__(self, folder, service, recipes):
        """Take what there is."""
        self.folder, self.service, self.recipes = folder, service, recipes
        environ = dict(nix.private_store(folder / "nix").environ)
        self.environ = {**environ, "TMPDIR": str(folder)}
        self._made = 0

    def packages(self, count, script=TRIVIAL):
        """Make up packages that nobody has built; return their names."""
        self._made += count
        return [self.recipes.add(f"made{self._made - number}", script) for number in range(count)]

    def build(self, names, at_once=1):
        """Build packages by the bare commands; return the seconds that it took."""
        roots = self.folder / "bare-roots"
        roots.mkdir(exist_ok=True)
        script = BUILD.format(catalog=self.recipes.catalog, roots=roots)
        argv = ["xargs", "-P", str(at_once), "-n", "1", "sh", "-c", script, "sh"]
        with stopwatch() as taken:
            self._run(argv, input="\n".join(names))
        return taken()

    def register(self, names):
        """Register packages with the service; return their ids."""
        return [self.service.register(name, "1.0.0") for name in names]

    def download(self, package_ids):
        """Have the service download packages; return the seconds from the request to the end."""
        with stopwatch() as taken:
            tasks = [self.service.post(f"package/{one}/download")["task_id"] for one in package_ids]
            for task_id in tasks:
                task = self.service.ended(task_id, seconds=WAIT_SECONDS)
                assert task["status"] == "succeeded", task
        return taken()

    def activate(self, package_id):
        """Have the service activate a package; return the seconds that it took."""
        with stopwatch() as taken:
            self.service.post(f"package/{package_id}/activate")
        return taken()

    def set_profile(self, name):
        """Set a profile to a package by the bare command; return the seconds that it took."""
        root = (self.folder / "bare-roots" / name).resolve()
        with stopwatch() as taken:
            self._run(["nix-env", "--profile", self.folder / "bare-profile", "--set", root])
        return taken()

    def _run(self, argv, **more):
        subprocess.run(argv, env=self.environ, check=True, capture_output=True, text=True, **more)


@contextmanager
def stopwatch():
    """Yield a function that returns the seconds since."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started


@contextmanager
def bench(prepare=lambda _: None, **settings):
    """Yield a Bench whose service runs; `prepare` is called with the service before it starts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        recipes = Recipes(folder)
        with contestants.pkgd(folder, CATALOGS=recipes.catalog, **settings) as service:
            # a session that stays connected, as that of any client
            service.session.headers.pop("Connection")
            service.command("init-db")
            prepare(service)
            service.start().sign_in()
            try:
                yield Bench(folder, service, recipes)
            finally:
                service.stop()
        subprocess.run(["chmod", "-R", "u+w", folder / "nix"], check=True)


def measure(figures, rounds, batches):
    """Measure everything so many times, the service and the bare commands in turn."""
    with bench() as it:
        for _ in range(rounds):
            _built(figures, it)
            _activation(figures, it)
        for _ in range(batches):
            _many(figures, it, MANY, PACKAGES, TRIVIAL)
            _many(figures, it, TALKATIVE_ONES, TALKERS, TALKATIVE)


def _built(figures, it):
    """Download what is in the store already."""
    (name,) = it.packages(1)
    (package_id,) = it.register([name])
    it.build([name])
    figures.of(STORED, BARE, "ms").add(1000 * it.build([name]))
    figures.of(STORED, "pkgd", "ms").add(1000 * it.download([package_id]))


def _activation(figures, it):
    names = it.packages(2)
    package_ids = it.register(names)
    it.build(names)
    it.download(package_ids)
    for name, package_id in zip(names, package_ids, strict=True):
        figures.of("an activation", "nix-env --set", "ms").add(1000 * it.set_profile(name))
        figures.of("an activation", "pkgd", "ms").add(1000 * it.activate(package_id))
        it.service.post(f"package/{package_id}/deactivate")


def _many(figures, it, what, count, script):
    package_ids = it.register(it.packages(count, script))
    figures.of(what, "pkgd", "s").add(it.download(package_ids))
    bare = it.build(it.packages(count, script), at_once=4)
    figures.of(what, XARGS, "s").add(bare)
