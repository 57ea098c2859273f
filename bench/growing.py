"""Growing: what a request costs with a thousand packages, and with a hundred thousand."""

from functools import partial

import filling
import working
from working import stopwatch

import task_queue

WHAT = ("list", "get", "claim", "download")
SIZES = (1_000, 10_000, 100_000)
REPEATS = 200
DOWNLOADS = 8
LEASE_SECONDS = 30


def measure(figures, repeats=REPEATS):
    """Measure at each number of packages, with as many tasks."""
    for size in SIZES:
        with working.bench(prepare=partial(_prepare, figures, size, repeats)) as it:
            for what, path in (
                ("list", f"packages?limit=50&after={size // 2}"),
                ("get", f"package/{size // 2}"),
            ):
                figure = _figure(figures, what, size)
                for _ in range(repeats):
                    with stopwatch() as taken:
                        it.service.get(path)
                    figure.add(1000 * taken())

            names = it.packages(DOWNLOADS)
            it.build(names)
            for package_id in it.register(names):
                seconds = it.download([package_id])
                _figure(figures, "download", size).add(1000 * seconds)


def _prepare(figures, size, repeats, service):
    """Fill the database, and claim tasks of it while nobody else does."""
    filling.fill(service, size)
    figure = _figure(figures, "claim", size)
    with filling.database(service):
        for package_id in range(1, repeats + 1):
            task_queue.add(package_id)
            with stopwatch() as taken:
                lease = task_queue.claim("bench", LEASE_SECONDS)
            figure.add(1000 * taken())
            lease.cancel()


def _figure(figures, what, size):
    return figures.of(name(what), f"{size:,} packages", "ms")


def name(what):
    """Return what a figure is called."""
    return f"{what}, one at a time"
