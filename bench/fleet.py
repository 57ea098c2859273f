"""script/fleet: how many machines one server has following it, and how soon they are current.

A simulated machine does what `pkgctl sync` does over HTTP: a connection for each round, a GET with
the ETag of the last answer, a report. Its store is a variable: nothing is fetched. The server is
started here, with a cache, and listens on 127.0.0.1; both share the machine's cores.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import servers
from support import until

from pkgctl.sync import pause

LIMIT_SECONDS = 1.0  # for the 99th percentile
INTERVAL = 60
STEP_SECONDS = 12
FLEET, EVERY, CURRENT_SECONDS = 100, 5, 10
# Of deploy/pkgd-sync.timer: OnUnitInactiveSec, and RandomizedDelaySec besides.
TIMER, TIMER_DELAY, TIMER_CURRENT_SECONDS = 50, 10, 70
LEAST, MOST = 100, 100_000
ROUND_SECONDS = 20
PROFILE = "default"


@dataclass
class Machine:
    """A machine: what it holds, and how it stands with the server."""

    name: str
    etag: str | None = None
    offered: dict | None = None
    held: dict | None = None
    refused: str | None = None
    reports: list = field(default_factory=list)

    def take(self, bad):
        """Hold what is offered, unless its check fails; tell how that went."""
        path = self.offered and self.offered["store_path"]
        if path == bad:
            self.refused = path
        elif path != self.refused:
            self.held, self.refused = self.offered, None
        return "failed" if self.refused else "current"


class Fleet:
    """Simulated machines, and what their requests took."""

    def __init__(self, url, token):
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._token = token
        self.seconds, self.statuses = [], Counter()
        self.bad = None

    async def round(self, machine, due):
        """Do a round of a machine that was to begin at `due`; what is late counts as time taken."""
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            path = f"profile/{PROFILE}?machine={machine.name}"
            headers = {"If-None-Match": machine.etag} if machine.etag else {}
            status, found, body = await self._send(reader, writer, "GET", path, headers)
            self.seconds.append(time.perf_counter() - due)
            if status == 200:
                machine.etag, machine.offered = found["etag"], json.loads(body)["offered"]
            await self._report(machine, reader, writer)
        finally:
            writer.close()

    async def _report(self, machine, reader, writer):
        state = machine.take(self.bad)
        held = machine.held or {"generation": None, "store_path": None}
        error = "the check failed: exit code 1" if state == "failed" else None
        report = {"profile": PROFILE, **held, "state": state, "error": error}
        begun = time.perf_counter()
        status, _, _ = await self._send(
            reader, writer, "PUT", f"machine/{machine.name}", {}, report
        )
        self.seconds.append(time.perf_counter() - begun)
        if status == 200:
            machine.reports.append((time.perf_counter(), report))

    async def _send(self, reader, writer, method, path, headers, document=None):
        """Send a request; return the status, the headers and the body of its answer."""
        data = b"" if document is None else json.dumps(document).encode()
        own = {"Host": "127.0.0.1", "Authorization": f"Bearer {self._token}"}
        if document is not None:
            own |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        lines = [f"{method} /api/v1/{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in {**own, **headers}.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)

        status = int((await reader.readline()).split()[1])
        found = {}
        while line := (await reader.readline()).strip().decode():
            name, _, value = line.partition(": ")
            found[name.lower()] = value
        body = await reader.readexactly(int(found.get("content-length") or 0))
        self.statuses[status] += 1
        return status, found, body


async def load(fleet, machines, seconds):
    """Have machines do their rounds, evenly over INTERVAL, for so many seconds."""
    fleet.seconds.clear()
    fleet.statuses.clear()
    begun = time.perf_counter()
    dues = [begun + INTERVAL * number / len(machines) for number in range(len(machines))]
    rounds = []
    for machine, due in zip(machines, dues, strict=True):
        if due > begun + seconds:
            break
        await asyncio.sleep(max(0, due - time.perf_counter()))
        rounds.append(asyncio.create_task(bounded(fleet, machine, due)))
    await asyncio.gather(*rounds)


async def bounded(fleet, machine, due):
    """Do a round; one that fails or takes too long counts as that long."""
    try:
        async with asyncio.timeout(ROUND_SECONDS):
            await fleet.round(machine, due)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, IndexError):
        fleet.statuses["no answer"] += 1
        fleet.seconds.append(ROUND_SECONDS)


def p99(seconds):
    """Return the 99th percentile."""
    return sorted(seconds)[int(len(seconds) * 0.99)]


def measure_capacity(fleet, number):
    """Print how the server answers more and more machines; return how many it stands."""
    print(f"machines  requests/s  p50 ms  p99 ms  answers (each asks every {INTERVAL} s)")
    good, bad = 0, MOST
    while bad - good > max(good // 8, LEAST):
        if is_borne(fleet, number):
            good = number
        else:
            bad = number
        number = min(good * 2, (good + bad) // 2) if good else bad // 2
    return good


def is_borne(fleet, number):
    """Load the server with so many machines; tell whether it answers within the limit."""
    machines = [Machine(f"load-{n}") for n in range(number)]
    asyncio.run(load(fleet, machines, STEP_SECONDS))
    took = sorted(fleet.seconds)
    counts = ", ".join(
        f"{status}: {count}" for status, count in sorted(fleet.statuses.items(), key=str)
    )
    rate = len(took) / STEP_SECONDS
    middle = took[len(took) // 2]
    print(f"{number:8}  {rate:10.0f}  {middle * 1000:6.0f}  {p99(took) * 1000:6.0f}  {counts}")
    is_well = not any(isinstance(one, str) or one >= 400 for one in fleet.statuses)
    return is_well and p99(took) < LIMIT_SECONDS


async def follow(fleet, machine, rest, is_over):
    """Have a machine do rounds, with a rest after each, from a moment of its own on."""
    await asyncio.sleep(random.uniform(0, rest()))
    while not is_over.is_set():
        await bounded(fleet, machine, time.perf_counter())
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), rest())


def rest_of_command():
    """Return how long `pkgctl sync --every` rests after a round."""
    return pause(EVERY, 0)


def rest_of_timer():
    """Return how long the timer waits after a `pkgctl sync --once` has ended."""
    return TIMER + random.uniform(0, TIMER_DELAY)


async def until_all(machines, wanted, seconds):
    """Wait until the last report of every machine is as wanted; return when the last one came."""
    deadline = time.perf_counter() + seconds
    while not all(machine.reports and wanted(machine.reports[-1][1]) for machine in machines):
        if time.perf_counter() > deadline:
            raise SystemExit(f"fleet: not all machines within {seconds} s")
        await asyncio.sleep(0.05)
    return max(first(machine, wanted) for machine in machines)


def first(machine, wanted):
    """Return when a machine reported first what is wanted, of its latest reports."""
    at = None
    for when, report in reversed(machine.reports):
        if not wanted(report):
            break
        at = when
    return at


@asynccontextmanager
async def following(fleet, rest):
    """Have a fleet of machines follow; yield them."""
    machines = [Machine(f"fleet-{number}") for number in range(FLEET)]
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for machine in machines:
            group.create_task(follow(fleet, machine, rest, is_over))
        yield machines
        is_over.set()


async def all_current(machines, change, how, wanted):
    """Change the profile twice; return what all hold then, and after how long all held it."""
    good = await asyncio.to_thread(change, "hello")
    await until_all(machines, holds(good), 2 * wanted)
    begun = time.perf_counter()
    better = await asyncio.to_thread(change, "parrot")
    assert better != good
    took = await until_all(machines, holds(better), 2 * wanted) - begun
    print(
        f"{FLEET} machines {how}: all current {took:.1f} s after the activation was asked for "
        f"(at most {wanted} s wanted)"
    )
    return better, took


async def measure_timer(fleet, change):
    """Print how soon all machines of a fleet are current that a timer has ask."""
    how = f"with a timer of {TIMER} s and up to {TIMER_DELAY} s more"
    async with following(fleet, rest_of_timer) as machines:
        _, took = await all_current(machines, change, how, TIMER_CURRENT_SECONDS)
    return took


async def measure_change(fleet, change):
    """Print how soon all machines of a fleet are current, and how a bad generation ends."""
    async with following(fleet, rest_of_command) as machines:
        how = f"with --every {EVERY}"
        better, took = await all_current(machines, change, how, CURRENT_SECONDS)

        await asyncio.to_thread(change, "fortune", fleet)
        await until_all(machines, lambda report: report["state"] == "failed", 60)
        kept = sum(machine.held["store_path"] == better for machine in machines)
        print(f"one bad generation: {kept} of {FLEET} machines on the old one, all told it failed")
    return took


def holds(store_path):
    """Return what tells whether a report is of a machine that is current with a store path."""
    return lambda report: (report["state"], report["store_path"]) == ("current", store_path)


class Operator:
    """Changes the profile of a server, as an operator does."""

    def __init__(self, service):
        self._service = service
        self._ids = {}

    def prepare(self, *names):
        """Have the newest versions of packages downloaded."""
        for name in names:
            version = self._service.get(f"catalog/{name}")["versions"][0]["version"]
            known = {
                one["version"]: one["id"] for one in self._service.get(f"packages?name={name}")
            }
            self._ids[name] = known.get(version) or self._service.register(name, version)
            task = self._service.post(f"package/{self._ids[name]}/download")["task_id"]
            assert self._service.ended(task)["status"] == "succeeded"

    def activate(self, name, fleet=None):
        """Activate a package; return the store path that machines are offered then.

        With a fleet, that is what fails the check of its machines.
        """
        self._service.post(f"package/{self._ids[name]}/activate")
        return self._offered(fleet)

    def deactivate(self, name):
        """Deactivate a package; return the store path that machines are offered then."""
        self._service.post(f"package/{self._ids[name]}/deactivate")
        return self._offered()

    def _offered(self, fleet=None):
        path = self._service.get(f"profile/{PROFILE}")["store_path"]
        if fleet:
            fleet.bad = path
        until(
            lambda: (
                (self._service.get(f"profile/{PROFILE}")["offered"] or {}).get("store_path") == path
            )
        )
        return path


def main():
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(prog="script/fleet", description=__doc__.split("\n\n")[0])
    parser.add_argument("--from", type=int, default=2000, dest="least", help="how many at first")
    parser.add_argument("--database", help="the URL of a PostgreSQL database, instead of SQLite")
    parser.add_argument(
        "--hosts", type=int, default=0, help="so many web hosts behind nginx, and the database"
    )
    options = parser.parse_args()
    if options.hosts > 1 and not options.database:
        parser.error("several hosts need --database")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(started(folder, options.database))
        operator = Operator(service)
        operator.prepare("hello", "parrot", "fortune")
        url = front(stack, folder, service, options.hosts) if options.hosts else service.url
        fleet = Fleet(url, service.post("tokens", json={"scope": "sync"})["token"])
        took = asyncio.run(measure_change(fleet, operator.activate))
        fleet.bad = None
        timer_took = asyncio.run(measure_timer(fleet, operator.deactivate))
        most = measure_capacity(fleet, options.least)
        print(
            f"{told(options.hosts)} of {servers.PROCESSES} processes: {most} machines at an "
            f"interval of {INTERVAL} s, with a 99th percentile under {LIMIT_SECONDS:g} s"
        )
    for seconds, wanted in ((took, CURRENT_SECONDS), (timer_took, TIMER_CURRENT_SECONDS)):
        if seconds > wanted:
            raise SystemExit(f"fleet: all were current only after {seconds:.1f} s")


def told(hosts):
    """Return in words what was measured."""
    return f"{hosts} web hosts behind nginx, each" if hosts else "one server"


def front(stack, folder, service, hosts):
    """Start more servers of a service, and nginx in front of all; return its URL."""
    ports = [service.port]
    for _ in range(hosts - 1):
        other = stack.enter_context(servers.QuietService(service.settings, measured=False))
        ports.append(other.start().port)
    # They share a folder, so that the first one to be closed ends all of them, as it should.
    upstream = "".join(f"server 127.0.0.1:{port};\n" for port in ports)
    every = [(" ssl http2;", ";"), ("limit_conn pkgd_addresses 128;", "")]
    nginx = folder / "nginx"
    nginx.mkdir()
    changes = [*every, (f"server 127.0.0.1:{service.port};", upstream)]
    return stack.enter_context(servers.Front(nginx, service, changes)).url


def started(folder, database):
    """Return a server that has started, with a cache in a folder."""
    database = {"DATABASE_URL": database} if database else {}
    key = folder / "cache.key"
    service = servers.pkgd(
        folder,
        INDEX_BYTES=servers.INDEX_BYTES,
        CACHE=f"file://{folder / 'cache'}",
        CACHE_KEY_FILE=key,
        **database,
    )
    service.command("cache-key")
    service.init_db().start()
    service.sign_in()
    return service


if __name__ == "__main__":
    main()
