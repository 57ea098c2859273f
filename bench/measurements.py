"""Measured values, and the Markdown table of them."""

from dataclasses import dataclass, field
from statistics import median


@dataclass
class Series:
    """The values of one quantity for one subject, one value per round."""

    what: str
    subject: str
    unit: str
    values: list[float] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def add(self, value, **latencies):
        """Add a round's value, with its latencies in milliseconds by name."""
        self.values.append(value)
        for name, milliseconds in latencies.items():
            self.latencies.setdefault(name, []).append(milliseconds)

    @property
    def median(self):
        """The median of all rounds."""
        return median(self.values)

    @property
    def row(self):
        """The series as a row of a Markdown table."""
        latencies = ", ".join(
            f"{name} {format_number(median(values))} ms" for name, values in self.latencies.items()
        )
        spread = f"{format_number(min(self.values))} to {format_number(max(self.values))}"
        cells = (self.what, self.subject, format_number(self.median), spread, self.unit, latencies)
        return f"| {' | '.join(cells)} |"


class Results:
    """All series, in the order in which they were first asked for."""

    def __init__(self):
        self._series = {}

    def series(self, what, subject, unit):
        """Return the series of this quantity and subject; create it when there is none."""
        return self._series.setdefault((what, subject), Series(what, subject, unit))

    def median(self, what, subject):
        """Return the median of a series."""
        return self._series[what, subject].median

    def all(self):
        """Return all series."""
        return self._series.values()

    def table(self):
        """Return all series as a Markdown table."""
        head = "| what | subject | median | range | unit | latencies |"
        return "\n".join([head, "|---|---|---:|---|---|---|", *(one.row for one in self.all())])


def format_number(value):
    """Return a number as text, with three significant digits or all digits before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
