"""Footprint: the time that pkgd needs to start, and its memory when idle and after long use."""

import tempfile
import time
from pathlib import Path

import servers
import wrk
from workbench import SECONDS, bench, stopwatch

REQUESTS = 20_000
TASKS = 200
ROUNDS = 3
SETTLE_SECONDS = 3
SEND_SECONDS = 2
START = "from the start to ready"
IDLE = "memory, idle"


def measure_start(results, effort):
    """Start pkgd with an index of its catalog, wait until it is ready, and stop it; in rounds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.pkgd(Path(folder), INDEX_BYTES=servers.INDEX_BYTES) as service,
    ):
        service.init_db().start().sign_in()
        servers.await_indexes(service)
        service.stop()
        for _ in range(effort.rounds):
            with stopwatch() as elapsed:
                service.start()
            results.series(START, "pkgd", SECONDS).add(elapsed())
            time.sleep(SETTLE_SECONDS)
            servers.add_memory(results, IDLE, "pkgd", service)
            service.stop()


def measure_growth(results, _effort):
    """Send requests and run tasks, and measure the memory; repeat ROUNDS times."""
    with bench() as it:
        authorization = it.service.session.headers["Authorization"]
        (package_id,) = it.register(it.add_packages(1))
        path = f"/api/v1/package/{package_id}"
        case = wrk.Case("GET package", "pkgd", it.service, path, authorization)
        for number in range(1, ROUNDS + 1):
            sent = 0
            while sent < REQUESTS:
                sent += wrk.send(case, SEND_SECONDS)["requests"]
            it.download(it.register(it.add_packages(TASKS)))
            time.sleep(SETTLE_SECONDS)
            servers.add_memory(results, growth(number), "pkgd", it.service)


def growth(number):
    """Return the name of what is measured after so many thirds of the use."""
    return f"memory after {number * REQUESTS:,} requests and {number * TASKS} tasks"
