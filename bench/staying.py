"""Staying: how soon the service is ready, and what it takes of memory, idle and in the long run."""

import tempfile
import time
from pathlib import Path

import contestants
import serving
import working

REQUESTS = 20_000
TASKS = 200
ROUNDS = 3
SETTLE_SECONDS = 3


def measure_start(figures, rounds):
    """Start and stop the service, each time until it says that it is ready."""
    with tempfile.TemporaryDirectory() as folder, contestants.pkgd(Path(folder)) as service:
        service.command("init-db")
        for _ in range(rounds):
            with working.stopwatch() as taken:
                service.start()
            figures.of("from the start to ready", "pkgd", "s").add(taken())
            time.sleep(SETTLE_SECONDS)
            idle = figures.of("memory, idle", "pkgd", "MiB PSS")
            idle.add(contestants.pss_mib(service.server))
            service.stop()


def measure_growth(figures, requests=REQUESTS, tasks=TASKS):
    """Send requests and have tasks done, several times over, and look at the memory each time."""
    with working.bench() as it:
        token = it.service.session.headers["Authorization"].split()[-1]
        (package_id,) = it.register(it.packages(1))
        url = f"{it.service.url}/api/v1/package/{package_id}"
        for number in range(1, ROUNDS + 1):
            sent = 0
            while sent < requests:
                sent += serving.send(serving.Case("GET", "pkgd", url, token), 2)["requests"]
            it.download(it.register(it.packages(tasks)))
            time.sleep(SETTLE_SECONDS)
            what = f"memory after {number} times {requests:,} requests and {tasks} tasks"
            figures.of(what, "pkgd", "MiB PSS").add(contestants.pss_mib(it.service.server))
