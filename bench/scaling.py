"""Scaling: the latency of single requests with a thousand packages, and a hundred thousand."""

from functools import partial

import seed
from workbench import MILLISECONDS, bench, stopwatch

import task_queue

OPERATIONS = ("list", "get", "claim", "download")
SIZES = (1_000, 10_000, 100_000)
REPEATS = 200
DOWNLOADS = 8
LEASE_SECONDS = 30


def measure(results, _effort):
    """Measure each operation at each number of packages, with as many tasks."""
    for size in SIZES:
        with bench(prepare=partial(_prepare, results, size)) as it:
            _measure_reads(results, size, it.service)
            names = it.add_packages(DOWNLOADS)
            it.build(names)
            for package_id in it.register(names):
                taken = it.download([package_id])
                taken.add_to(results, title("download"), subject(size), MILLISECONDS)


def _measure_reads(results, size, service):
    paths = {"list": f"packages?limit=50&after={size // 2}", "get": f"package/{size // 2}"}
    for operation, path in paths.items():
        series = _series(results, operation, size)
        for _ in range(REPEATS):
            with stopwatch() as elapsed:
                service.get(path)
            series.add(1000 * elapsed())


def _prepare(results, size, service):
    """Fill the database, and measure claims before the service's own workers start."""
    seed.fill(service, size)
    series = _series(results, "claim", size)
    with seed.database(service):
        for package_id in range(1, REPEATS + 1):
            task_queue.add(package_id)
            with stopwatch() as elapsed:
                lease = task_queue.claim("bench", LEASE_SECONDS)
            series.add(1000 * elapsed())
            lease.cancel()


def _series(results, operation, size):
    return results.series(title(operation), subject(size), MILLISECONDS)


def title(operation):
    """Return the name of an operation's series."""
    return f"{operation}, one at a time"


def subject(size):
    """Return what is measured, by the number of packages."""
    return f"{size:,} packages"
