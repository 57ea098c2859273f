"""What is promised of the measured values, and whether it is kept."""

from dataclasses import dataclass

import builds
import footprint
import routes
import servers
import wrk
from measurements import format_number, table
from workbench import MILLISECONDS, SECONDS


@dataclass(frozen=True)
class Promise:
    """A bound that a measured value has to keep; `goal` is where it is to go."""

    text: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    goal: float | None = None
    wobbles: bool = False

    @property
    def is_kept(self):
        """Whether the value keeps the bound."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most

    @property
    def row(self):
        """The cells of a table: promise, bound, value, whether it is kept."""
        words, bound = ("at least", self.at_least)
        if bound is None:
            words, bound = ("at most", self.at_most)
        told = f"{words} {format_number(bound)}"
        if self.goal is not None:
            told += f", goal {format_number(self.goal)}"
        kept = "yes" if self.is_kept else "no"
        if self.wobbles:
            kept += ", wobbles"
        return self.text, told, format_number(self.value), kept


def ratio(text, over, under, **bound):
    """Return the promise of a ratio of two series; none where one was not measured."""
    if over is None or under is None:
        return []
    return [
        Promise(text, over.median / under.median, wobbles=over.wobbles or under.wobbles, **bound)
    ]


def value(text, series, **bound):
    """Return the promise of a series; none where it was not measured."""
    if series is None:
        return []
    return [Promise(text, series.median, wobbles=series.wobbles, **bound)]


def of(results):
    """Return all promises of which the values were measured."""
    return [*_of_routes(results), *_of_builds(results), *_of_footprint(results)]


def _of_routes(results):
    def cpu(what, subject=routes.PKGD):
        return results.find(what, subject, wrk.CPU)

    package, post = routes.PACKAGE, routes.POST
    bare = cpu(routes.HELLO, routes.BARE)
    deepest, first = cpu(routes.DEEPEST_PAGE), cpu(routes.FIRST_PAGE)
    return [
        *ratio("CPU of GET package / bare Flask", cpu(package), bare, at_most=1.6, goal=1.33),
        *ratio("CPU of GET /hello / bare Flask", cpu(routes.HELLO), bare, at_most=1.15),
        *ratio(
            "CPU of GET package: FastAPI / pkgd",
            cpu(package, routes.PEER),
            cpu(package),
            at_least=3,
        ),
        *ratio(
            "CPU of POST packages: FastAPI / pkgd", cpu(post, routes.PEER), cpu(post), at_least=2
        ),
        *value(
            "POST packages by 8 clients, 99th percentile, ms",
            results.find(post, routes.PKGD, wrk.P99),
            at_most=50,
        ),
        *ratio("CPU of the deepest page / the first page", deepest, first, at_most=1.2),
    ]


def _of_builds(results):
    def seconds(what, subject=builds.PKGD):
        return results.find(what, subject, SECONDS)

    def milliseconds(what, subject=builds.PKGD):
        return results.find(what, subject, MILLISECONDS)

    many, verbose = builds.MANY, builds.VERBOSE
    stored = f"{builds.STORED}, from a pin of"
    return [
        *ratio(
            f"{stored} {builds.PIN_ATTRIBUTES:,} attributes / nix-build --attr in it",
            milliseconds(builds.STORED, builds.FROM_LARGE_PIN),
            milliseconds(builds.STORED, builds.IN_LARGE_PIN),
            at_most=1,
        ),
        *ratio(
            f"{stored} {builds.STORED_PACKAGES} / nix-build --attr in it",
            milliseconds(builds.STORED, builds.FROM_PIN),
            milliseconds(builds.STORED, builds.IN_PIN),
            at_most=1,
        ),
        *ratio(
            f"{many}: xargs / pkgd", seconds(many, builds.BY_XARGS), seconds(many), at_least=0.95
        ),
        *ratio(
            f"{verbose}: xargs / pkgd",
            seconds(verbose, builds.BY_XARGS),
            seconds(verbose),
            at_least=0.85,
        ),
    ]


def _of_footprint(results):
    def memory(what):
        return results.find(what, "pkgd", servers.MEMORY)

    first, last = memory(footprint.growth(1)), memory(footprint.growth(footprint.ROUNDS))
    text = f"{footprint.growth(footprint.ROUNDS)} / that after a third of it"
    return [
        *value("memory of two processes, idle, MiB PSS", memory(footprint.IDLE), at_most=100),
        *value(
            "from the start to ready, s",
            results.find(footprint.START, "pkgd", SECONDS),
            at_most=1.2,
        ),
        *ratio(text, last, first, at_most=1.05),
    ]


def report(results):
    """Return the promises as a Markdown table."""
    head = ("what", "promised", "measured", "kept")
    return table(head, [promise.row for promise in of(results)], numbers=(2,))
