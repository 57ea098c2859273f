"""Scaling: the latency of single requests with a thousand packages, and a hundred thousand."""

from functools import partial

import builds
import seed
from builds import stopwatch

import task_queue

OPERATIONS = ("list", "get", "claim", "download")
SIZES = (1_000, 10_000, 100_000)
REPEATS = 200
DOWNLOADS = 8
LEASE_SECONDS = 30


def measure(results, repeats=REPEATS):
    """Measure each operation at each number of packages, with as many tasks."""
    for size in SIZES:
        with builds.bench(prepare=partial(_prepare, results, size, repeats)) as bench:
            _measure_reads(results, size, repeats, bench.service)
            names = bench.add_packages(DOWNLOADS)
            bench.build(names)
            for package_id in bench.register(names):
                seconds = bench.download([package_id])
                _series(results, "download", size).add(1000 * seconds)


def _measure_reads(results, size, repeats, service):
    paths = {"list": f"packages?limit=50&after={size // 2}", "get": f"package/{size // 2}"}
    for operation, path in paths.items():
        series = _series(results, operation, size)
        for _ in range(repeats):
            with stopwatch() as elapsed:
                service.get(path)
            series.add(1000 * elapsed())


def _prepare(results, size, repeats, service):
    """Fill the database, and measure claims before the service's own workers start."""
    seed.fill(service, size)
    series = _series(results, "claim", size)
    with seed.database(service):
        for package_id in range(1, repeats + 1):
            task_queue.add(package_id)
            with stopwatch() as elapsed:
                lease = task_queue.claim("bench", LEASE_SECONDS)
            series.add(1000 * elapsed())
            lease.cancel()


def _series(results, operation, size):
    return results.series(title(operation), f"{size:,} packages", "ms")


def title(operation):
    """Return the name of an operation's series."""
    return f"{operation}, one at a time"
