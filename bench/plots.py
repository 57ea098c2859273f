"""The plots in RESULTS.md."""

import matplotlib
import routes
import scaling
import wrk
from workbench import MILLISECONDS

matplotlib.use("agg")  # before pyplot is imported, which would look for a screen
from matplotlib import pyplot

CPU_PLOT = "cpu.png"
SCALING_PLOT = "scaling.png"
# A page of 50 would make the others too small to tell apart.
SHOWN = (routes.HELLO, routes.PACKAGE, routes.TASK, routes.POST)


def plot_cpu(results, path):
    """Draw the CPU time per request of each route, grouped by route."""
    subjects = (routes.BARE, routes.PKGD, routes.PEER)
    width = 0.8 / len(subjects)
    canvas, axes = pyplot.subplots(figsize=(10, 5))

    for number, subject in enumerate(subjects):
        found = [results.find(what, subject, wrk.CPU) for what in SHOWN]
        medians = {place: one.median for place, one in enumerate(found) if one}
        places = [place + width * number for place in medians]
        axes.bar(places, medians.values(), width=width, label=subject, align="edge")

    axes.set_xticks([place + 0.4 for place in range(len(SHOWN))], SHOWN)
    axes.set_ylabel(wrk.CPU)
    _save(canvas, axes, path)


def plot_scaling(results, path):
    """Draw the latency of each operation by the number of packages."""
    canvas, axes = pyplot.subplots(figsize=(8, 5))
    for operation in scaling.OPERATIONS:
        found = [
            results.find(scaling.title(operation), scaling.subject(size), MILLISECONDS)
            for size in scaling.SIZES
        ]
        axes.plot(scaling.SIZES, [one.median for one in found], marker="o", label=operation)
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
