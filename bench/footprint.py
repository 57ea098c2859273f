"""Footprint: the time that pkgd needs to start, and its memory when idle and after long use."""

import tempfile
import time
from pathlib import Path

import builds
import servers
import wrk

REQUESTS = 20_000
TASKS = 200
ROUNDS = 3
SETTLE_SECONDS = 3
SEND_SECONDS = 2
START = "from the start to ready"
IDLE = "memory, idle"
MEMORY_UNIT = "MiB PSS"


def measure_start(results, rounds):
    """Start pkgd, wait until it is ready, and stop it; repeat for so many rounds."""
    with tempfile.TemporaryDirectory() as folder, servers.pkgd(Path(folder)) as service:
        service.command("init-db")
        for _ in range(rounds):
            with builds.stopwatch() as elapsed:
                service.start()
            results.series(START, "pkgd", "s").add(elapsed())
            time.sleep(SETTLE_SECONDS)
            results.series(IDLE, "pkgd", MEMORY_UNIT).add(servers.pss_mib(service))
            service.stop()


def measure_growth(results, requests=REQUESTS, tasks=TASKS):
    """Send requests and run tasks, and measure the memory; repeat ROUNDS times."""
    with builds.bench() as bench:
        token = bench.service.session.headers["Authorization"].split()[-1]
        (package_id,) = bench.register(bench.add_packages(1))
        url = f"{bench.service.url}/api/v1/package/{package_id}"
        case = wrk.Case("GET package", "pkgd", url, token)
        for number in range(1, ROUNDS + 1):
            sent = 0
            while sent < requests:
                sent += wrk.send(case, SEND_SECONDS)["requests"]
            bench.download(bench.register(bench.add_packages(tasks)))
            time.sleep(SETTLE_SECONDS)

            what = f"memory after {number} times {requests:,} requests and {tasks} tasks"
            results.series(what, "pkgd", MEMORY_UNIT).add(servers.pss_mib(bench.service))
