"""What a whole tree of nixpkgs costs: to add it as a pin, to index and verify it; what resolves."""

import itertools
import math
import random
import sqlite3
import statistics
import tarfile
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import servers
from support import until
from workbench import stopwatch

import drain
from attempt_process import PROGRAM

NAME = "pin"
SAMPLE, SEED = 100, 1
INDEX_SECONDS = 3 * 3600
VERIFY_SECONDS = 12 * 3600
PAUSE_SECONDS = 0.02
ROUND = 800  # requests, in some 20 s: an attempt takes two to begin
PACKAGES = 700  # more than are kept
LOOK_SECONDS, ASK_SECONDS = 0.05, 30  # while no request is measured: a request has work rest
SEARCHES = ("python", "editor", "lib", "git", "web server")


def measure(tree, sample=SAMPLE):
    """Measure a tree, the folder of nixpkgs; print a line for each figure."""
    with tempfile.TemporaryDirectory(prefix="pkgd-tree-") as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        (folder / "empty" / "default.nix").write_text("{ }")
        settings = {"INDEX_BYTES": 2**30, "CATALOGS": folder / "empty", "WEB_PROCESSES": 1}
        with servers.pkgd(folder, **settings) as service:
            service.command("init-db")
            add(service, tarball(tree, folder))
            service.start().sign_in()
            index(service, register(service))
            search(service)
            verify(service)
            resolve(service, sample)


def tarball(tree, folder):
    """Return the URL of a tarball of the tree, in a folder as such tarballs have one."""
    path = folder / "nixpkgs.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        file.add(tree, "nixpkgs-tree")
    tell("the tarball", f"{path.stat().st_size / 10**6:.0f} MB")
    return path.as_uri()


def add(service, url):
    """Add the pin, and print what the command says."""
    with stopwatch() as elapsed:
        done = service.command("catalog", "add", NAME, url)
    assert done.returncode == 0, done.stderr
    tell("flask catalog add", f"{elapsed():.1f} s")
    print(done.stdout, end="", flush=True)


def register(service):
    """Register packages before the index is begun; return their ids."""
    drain.begin(service.data_dir)
    package_ids = [service.register(f"package-{number}") for number in range(PACKAGES)]
    drain.end(service.data_dir)
    return package_ids


def index(service, package_ids):
    """Wait for the index; ask for packages in turns while it is made and while it rests."""
    before = database_bytes(service)
    until(lambda: pin_of(service)["index"] == "in_progress")
    began, watch = time.monotonic(), Watch(service)
    busy, resting = Latencies(service, watch, package_ids), Latencies(service, watch, package_ids)
    while not is_indexed(service, busy):
        assert time.monotonic() < began + INDEX_SECONDS
        if len(busy) >= len(resting) + ROUND:
            began += rest(service, resting)
    pin = pin_of(service)
    tell("the index", f"{pin['packages']:,} rows, {time.monotonic() - began:.0f} s of wall time")
    watch.tell()
    tell("the database", f"{(database_bytes(service) - before) / 10**6:.1f} MB larger")
    print(service.task_log(pin["index_task_id"]).decode().splitlines()[-1], flush=True)
    busy.tell("during the index")
    resting.tell("while it rests")


def rest(service, latencies):
    """Measure a round while the service is drained, and so evaluates nothing; return its seconds.

    What verifies the index begins right after it: only so it is known that nothing else runs.
    """
    (web,) = service.web_processes()
    with stopwatch() as elapsed:
        drain.begin(service.data_dir)
        until(lambda: not web.children(recursive=True))
        latencies.measure(ROUND)
        drain.end(service.data_dir)
        until(lambda: web.children(recursive=True), 30)
    return elapsed()


def is_indexed(service, latencies):
    """Measure a few requests; return whether the index of the pin is finished."""
    latencies.measure(50)
    status = pin_of(service)["index"]
    assert status in ("none", "in_progress", "current"), status
    return status == "current"


def pin_of(service):
    """Return what the service tells of the pin."""
    return next(one for one in service.get("catalogs") if one["name"] == NAME)


def database_bytes(service):
    """Return the size of the database."""
    with closing(sqlite3.connect(service.data_dir / "app.db")) as database:
        sizes = (database.execute(f"PRAGMA {each}") for each in ("page_count", "page_size"))
        return math.prod(size for ((size,),) in sizes)


def verify(service):
    """Wait for the verification of what the index offers."""
    began, watch = time.monotonic(), Watch(service)
    while pin_of(service)["verification"] != "current":
        assert time.monotonic() < began + VERIFY_SECONDS
        for _ in range(round(ASK_SECONDS / LOOK_SECONDS)):
            time.sleep(LOOK_SECONDS)
            watch.look()
    tell("the rest of the verification", f"{time.monotonic() - began:.0f} s of wall time")
    watch.tell()
    log = service.task_log(pin_of(service)["verification_task_id"]).decode()
    print(log.splitlines()[-1], flush=True)


def search(service):
    """Measure searches, and the versions of names."""
    for text in SEARCHES:
        seconds, answer = timed(service, f"catalog?search={text}")
        total = answer.headers["X-Total-Count"]
        tell(f"search of {text}", f"median {1000 * seconds:.1f} ms, {total} names")
    seconds, _ = timed(service, "catalog/git")
    tell("versions of git", f"median {1000 * seconds:.1f} ms")


def timed(service, path, rounds=20):
    """Return the median of the seconds that a request takes, and an answer."""
    seconds = []
    for _ in range(rounds):
        with stopwatch() as elapsed:
            answer = service.request("GET", path)
        seconds.append(elapsed())
    return statistics.median(seconds), answer


def resolve(service, sample):
    """Have a sample of what is on offer resolved by downloads, which are then cancelled."""
    wrong = []
    for name, version in offered(service, sample):
        package = service.register(name, version)
        task_id = service.post(f"package/{package}/download")["task_id"]
        found = until(lambda: resolved(service, package, task_id), 600)  # noqa: B023
        if isinstance(found, dict):
            wrong.append(f"{name} {version}: {found['message']}")
        service.request("POST", f"task/{task_id}/cancel")
    tell("resolved", f"{sample - len(wrong)} of {sample}")
    print(*wrong, sep="\n", flush=True)


def resolved(service, package, task_id):
    """Return the derivation that a download has found, or how it ended without one."""
    drv_path = service.get(f"package/{package}")["drv_path"]
    return drv_path or service.task(task_id)["error"]


def offered(service, sample):
    """Return name and version of a random sample of what may be had."""
    chance, names = random.Random(SEED), []
    for letter in "abcdefghijklmnopqrstuvwxyz":
        hits = service.get(f"catalog?search={letter}&limit=1000")
        names += [hit["name"] for hit in hits if hit["version"]]
    offers = []
    for name in chance.sample([one for one in names if len(one) <= 50 and len(one) > 1], sample):
        versions = service.get(f"catalog/{name}")["versions"]
        offers.append(
            (name, chance.choice([one["version"] for one in versions if one["available"]]))
        )
    return offers


def tell(what, figure):
    """Print a figure."""
    print(f"{what + ':':36} {figure}", flush=True)


class Latencies:
    """The seconds that GET package takes: of the same one, and of another one each time.

    The same one is read once after each write; of more packages than it keeps, the service reads
    each one.
    """

    def __init__(self, service, watch, package_ids):
        """Take a service with these packages."""
        self._service = service
        self._watch = watch
        self._first, *others = package_ids
        self._others = itertools.cycle(others)
        self._same, self._another = [], []

    def __len__(self):
        return len(self._same) + len(self._another)

    def measure(self, count):
        """Measure so many requests."""
        for _ in range(count // 2):
            self._same.append(self._seconds(self._first))
            self._another.append(self._seconds(next(self._others)))

    def _seconds(self, package_id):
        """Return the seconds that a request takes, after a pause.

        The pause is also for the look at the processes: a thread of its own would disturb it.
        """
        time.sleep(PAUSE_SECONDS)
        self._watch.look()
        with stopwatch() as elapsed:
            self._service.get(f"package/{package_id}")
        return elapsed()

    def tell(self, when):
        """Print medians and the 99th percentiles."""
        for what, seconds in (("same package", self._same), ("another package", self._another)):
            p99 = statistics.quantiles(seconds, n=100)[98]
            median = statistics.median(seconds)
            tell(f"GET {what} {when}", f"median {1000 * median:.1f}, p99 {1000 * p99:.1f} ms")


class Watch:
    """Watches a server's process, what runs its attempts beside it, and their evaluations."""

    def __init__(self, service):
        """Take a service with one process."""
        (self.process,) = service.web_processes()
        self.evaluator_mib = self.server_mib = self.attempt_mib = self.attempt_pss = 0
        self._before = self._cpu()

    def cpu_seconds(self):
        """Return the CPU time of the process, and of all that it has run, since the beginning."""
        return self._cpu() - self._before

    def tell(self):
        """Print what was seen."""
        tell("its CPU time", f"{self.cpu_seconds():.0f} s")
        tell("memory of an evaluation", f"{self.evaluator_mib:.0f} MiB at most")
        pss = f"{self.attempt_pss:.0f} MiB PSS, {self.attempt_mib:.0f} in all, at most"
        tell("memory of an attempt's process", pss)
        tell("memory of the server's process", f"{self.server_mib:.0f} MiB at most")

    def _cpu(self):
        """Return the CPU time of the process, and of all that it runs and has run."""
        total = sum(self.process.cpu_times()[:4])
        for one in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                total += sum(one.cpu_times()[:4])
        return total

    def look(self):
        """Note the memory of the processes that there are."""
        self.server_mib = max(self.server_mib, peak_mib(self.process.pid))
        for child in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess, OSError):
                if str(PROGRAM) in child.cmdline():
                    self.attempt_mib = max(self.attempt_mib, peak_mib(child.pid))
                    pss = child.memory_full_info().pss / servers.MIB
                    self.attempt_pss = max(self.attempt_pss, pss)
                else:
                    self.evaluator_mib = max(self.evaluator_mib, peak_mib(child.pid))


def peak_mib(pid):
    """Return the most memory that a process has had (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    _, _, peak = status.partition("VmHWM:")
    return int(peak.split()[0]) / 1024 if peak else 0  # one that has ended has none
