"""The report: the machine, the limits and whether they are met, all results, and plots of them."""

import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import builds
import cpu
import footprint
import matplotlib
import scaling
import throughput
from measurements import format_number

import nix

matplotlib.use("agg")  # before pyplot is imported, which would look for a screen
from matplotlib import pyplot

PACKAGES = ("Flask", "SQLAlchemy", "marshmallow", "gunicorn", "fastapi", "uvicorn", "aiosqlite")
THROUGHPUT_PLOT = "throughput.png"
SCALING_PLOT = "scaling.png"


@dataclass(frozen=True)
class Limit:
    """A bound that a measured value has to keep."""

    text: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def row(self):
        """The limit as a row of a Markdown table."""
        if self.at_least is not None:
            bound, is_met = f"at least {format_number(self.at_least)}", self.value >= self.at_least
        else:
            bound, is_met = f"at most {format_number(self.at_most)}", self.value <= self.at_most
        cells = (self.text, bound, format_number(self.value), "yes" if is_met else "no")
        return f"| {' | '.join(cells)} |"


def limits(results):
    """Return all limits with the measured values."""
    return [
        Limit(f"{cpu.PACKAGE}, µs", results.median(cpu.PACKAGE, "pkgd"), at_most=900),
        *_throughput_limits(results),
        *_build_limits(results),
        Limit(
            f"{footprint.IDLE}, {footprint.MEMORY_UNIT}",
            results.median(footprint.IDLE, "pkgd"),
            at_most=120e6 / 1024**2,
        ),
        Limit(f"{footprint.START}, s", results.median(footprint.START, "pkgd"), at_most=1.5),
    ]


def _throughput_limits(results):
    of = results.median
    package, new, hello = "GET package", "POST packages", "GET /hello"
    first, deepest = throughput.FIRST_PAGE, throughput.DEEPEST_PAGE
    return [
        Limit(f"{package} / bare Flask", of(package, "pkgd") / of(hello, "bare Flask"), 0.5),
        Limit(f"{package} / FastAPI", of(package, "pkgd") / of(package, "FastAPI"), 3),
        Limit(f"{new} / FastAPI", of(new, "pkgd") / of(new, "FastAPI"), 2),
        Limit(f"{first} / {deepest}", of(first, "pkgd") / of(deepest, "pkgd"), at_most=1.2),
    ]


def _build_limits(results):
    stored, many, apply = builds.STORED, builds.MANY, builds.APPLY
    ratio = results.median(many, builds.BY_XARGS) / results.median(many, "pkgd")
    return [
        Limit(
            f"{stored}, ms (at most 1.3 of Nix's own commands, plus 50)",
            results.median(stored, "pkgd"),
            at_most=1.3 * results.median(stored, builds.BY_NIX) + 50,
        ),
        Limit(f"{many}: xargs / pkgd", ratio, 0.85),
        Limit(
            f"{apply}, ms (at most 1.5 of nix-env --set, plus 100)",
            results.median(apply, "pkgd"),
            at_most=1.5 * results.median(apply, "nix-env --set") + 100,
        ),
    ]


def write(results, folder, rounds):
    """Write RESULTS.md and the plots to `folder`; return the text of RESULTS.md."""
    plot_throughput(results, folder / THROUGHPUT_PLOT)
    plot_scaling(results, folder / SCALING_PLOT)
    text = "\n".join(
        [
            "# Benchmark results",
            "",
            "Written by `script/bench`; the code in `bench/` shows how everything is measured.",
            "",
            *machine(rounds),
            "",
            "## Limits",
            "",
            "| what | limit | measured | met |",
            "|---|---|---:|---|",
            *(limit.row for limit in limits(results)),
            "",
            "## All results",
            "",
            "The median of all rounds, and the lowest and highest value.",
            "",
            results.table(),
            "",
            f"![Requests per second]({THROUGHPUT_PLOT})",
            f"![Latency by the number of packages]({SCALING_PLOT})",
            "",
        ]
    )
    (folder / "RESULTS.md").write_text(text)
    return text


def machine(rounds):
    """Return Markdown list items: the date, the machine, and the versions."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    with tempfile.TemporaryDirectory() as home:
        nix_version = nix.version(nix.machine_store(Path(home)))
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} rounds, "
        f"load at the end {os.getloadavg()[0]:.1f}",
        f"- {os.cpu_count()} cores of {processor}, {gib:.0f} GiB, Linux {platform.release()}",
        f"- Python {platform.python_version()}, Nix {nix_version}, {versions}",
    ]


def plot_throughput(results, path):
    """Draw the requests per second of each route, grouped by route."""
    rates = [series for series in results.all() if series.unit == throughput.RATE]
    routes = list(dict.fromkeys(series.what for series in rates))
    subjects = list(dict.fromkeys(series.subject for series in rates))
    width = 0.8 / len(subjects)
    canvas, axes = pyplot.subplots(figsize=(10, 5))

    for number, subject in enumerate(subjects):
        medians = {series.what: series.median for series in rates if series.subject == subject}
        places = [routes.index(what) + width * number for what in medians]
        axes.bar(places, medians.values(), width=width, label=subject, align="edge")

    axes.set_xticks([place + 0.4 for place in range(len(routes))], routes, rotation=20, ha="right")
    axes.set_ylabel(throughput.RATE)
    _save(canvas, axes, path)


def plot_scaling(results, path):
    """Draw the latency of each operation by the number of packages."""
    canvas, axes = pyplot.subplots(figsize=(8, 5))
    for operation in scaling.OPERATIONS:
        title = scaling.title(operation)
        medians = [series.median for series in results.all() if series.what == title]
        axes.plot(scaling.SIZES, medians, marker="o", label=operation)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("packages, with one task each")
    axes.set_ylabel("ms, median")
    _save(canvas, axes, path)


def _save(canvas, axes, path):
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
