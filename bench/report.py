"""The report: the machine, what is promised and what is so, all figures, and plots of them."""

import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import growing
import matplotlib
import serving
import working
from figures import shown

import nix

matplotlib.use("agg")
from matplotlib import pyplot  # it has to be told first that there is no screen

PACKAGES = ("Flask", "SQLAlchemy", "marshmallow", "gunicorn", "fastapi", "uvicorn", "aiosqlite")
MEGA = 1024 * 1024


@dataclass(frozen=True)
class Promise:
    """What is said of the speed: the bound, and what the figures come to."""

    text: str
    came_to: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def row(self):
        """The promise as a row of a Markdown table."""
        if self.at_least is not None:
            bound, is_kept = f"at least {shown(self.at_least)}", self.came_to >= self.at_least
        else:
            bound, is_kept = f"at most {shown(self.at_most)}", self.came_to <= self.at_most
        return f"| {self.text} | {bound} | {shown(self.came_to)} | {'yes' if is_kept else 'no'} |"


def promises(figures):
    """Return what is promised, with what the figures come to."""
    of = figures.median
    package, first, deepest = "GET package", serving.FIRST_PAGE, serving.DEEPEST_PAGE
    stored, many = working.STORED, working.MANY
    return [
        Promise(
            f"{package} / bare Flask", of(package, "pkgd") / of("GET /hello", "bare Flask"), 0.5
        ),
        Promise(f"{package} / FastAPI", of(package, "pkgd") / of(package, "FastAPI"), 3),
        Promise(
            "POST packages / FastAPI",
            of("POST packages", "pkgd") / of("POST packages", "FastAPI"),
            2,
        ),
        Promise(f"{first} / {deepest}", of(first, "pkgd") / of(deepest, "pkgd"), at_most=1.2),
        Promise(
            f"{stored}, ms (at most 1.3 of Nix alone, and 50)",
            of(stored, "pkgd"),
            at_most=1.3 * of(stored, working.BARE) + 50,
        ),
        Promise(f"{many}: xargs / pkgd", of(many, working.XARGS) / of(many, "pkgd"), 0.85),
        Promise("memory, idle, MiB PSS", of("memory, idle", "pkgd"), at_most=120e6 / MEGA),
        Promise("from the start to ready, s", of("from the start to ready", "pkgd"), at_most=1.5),
    ]


def write(figures, folder, rounds):
    """Write RESULTS.md and the plots to `folder`; return what is in RESULTS.md."""
    plot_serving(figures, folder / "serving.png")
    plot_growing(figures, folder / "growing.png")
    text = "\n".join(
        [
            "# What the benchmark gave",
            "",
            "Written by `script/bench`, which says in `bench/` how everything is measured.",
            "",
            *machine(rounds),
            "",
            "## What is promised",
            "",
            "| what | has to be | is | kept |",
            "|---|---|---:|---|",
            *(promise.row for promise in promises(figures)),
            "",
            "## All figures",
            "",
            "Medians of the rounds, and the least and the most.",
            "",
            figures.table(),
            "",
            "![Requests a second](serving.png)",
            "![Latencies by the number of packages](growing.png)",
            "",
        ]
    )
    (folder / "RESULTS.md").write_text(text)
    return text


def machine(rounds):
    """Return a list of what was measured on, and with which versions."""
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


def plot_serving(figures, path):
    """Draw the requests a second of each route, side by side."""
    rates = [figure for figure in figures.all() if figure.unit == serving.RATE]
    routes = list(dict.fromkeys(figure.what for figure in rates))
    names = list(dict.fromkeys(figure.of for figure in rates))
    canvas, axes = pyplot.subplots(figsize=(10, 5))
    for number, name in enumerate(names):
        mine = {figure.what: figure.median for figure in rates if figure.of == name}
        places = [routes.index(what) + 0.8 * number / len(names) for what in mine]
        axes.bar(places, mine.values(), width=0.8 / len(names), label=name, align="edge")
    axes.set_xticks([place + 0.4 for place in range(len(routes))], routes, rotation=20, ha="right")
    axes.set_ylabel(serving.RATE)
    _save(canvas, axes, path)


def plot_growing(figures, path):
    """Draw the latencies by the number of packages."""
    canvas, axes = pyplot.subplots(figsize=(8, 5))
    for what in growing.WHAT:
        found = [figure for figure in figures.all() if figure.what == growing.name(what)]
        axes.plot(growing.SIZES, [median(each.values) for each in found], marker="o", label=what)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("packages, and as many tasks")
    axes.set_ylabel("ms, median")
    _save(canvas, axes, path)


def _save(canvas, axes, path):
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
