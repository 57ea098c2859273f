"""Measured values: one series for each quantity and subject, and what of it is noise."""

import json
from dataclasses import dataclass, field
from statistics import median, quantiles

WOBBLE = 0.10


@dataclass
class Series:
    """The values of one quantity for one subject, one value per round."""

    what: str
    subject: str
    unit: str
    values: list[float] = field(default_factory=list)

    def add(self, value):
        """Add a round's value."""
        self.values.append(value)

    @property
    def median(self):
        """The median of all rounds."""
        return median(self.values)

    @property
    def noise(self):
        """The width of the middle half of the values, from the first quartile to the third.

        Unlike the whole range, it does not grow with the number of values, and one disturbed
        round of five does not change it.
        """
        if len(self.values) < 2:
            return 0.0
        first, _, third = quantiles(self.values, n=4, method="inclusive")
        return third - first

    @property
    def spread(self):
        """The noise as a part of the median."""
        return self.noise / self.median if self.median else 0.0

    @property
    def wobbles(self):
        """Whether the spread is larger than WOBBLE."""
        return self.spread > WOBBLE

    @property
    def row(self):
        """The cells of a table: quantity, subject, median, spread, range."""
        spread = f"{100 * self.spread:.0f} %" if len(self.values) > 1 else ""
        if self.wobbles:
            spread += ", wobbles"
        least, most = format_number(min(self.values)), format_number(max(self.values))
        whole = f"{least} to {most}" if len(self.values) > 1 else ""
        return self.what, self.subject, format_number(self.median), spread, whole


class Results:
    """All series, in the order in which they were first asked for."""

    def __init__(self):
        self._series = {}

    def series(self, what, subject, unit):
        """Return the series of this quantity, subject and unit; create it when there is none."""
        return self._series.setdefault((what, subject, unit), Series(what, subject, unit))

    def find(self, what, subject, unit):
        """Return a series; None where it was not measured."""
        return self._series.get((what, subject, unit))

    def all(self):
        """Return all series."""
        return list(self._series.values())

    def tables(self):
        """Return Markdown, a section with a table for each unit."""
        units = dict.fromkeys(one.unit for one in self.all())
        return "\n\n".join(f"### In {unit}\n\n{self._table(unit)}" for unit in units)

    def _table(self, unit):
        rows = [one.row for one in self.all() if one.unit == unit]
        return table(("what", "subject", "median", "spread", "range"), rows, numbers=(2,))

    def to_json(self):
        """Return the series as JSON, a line for each."""
        lines = [json.dumps(_rounded(one), ensure_ascii=False) for one in self.all()]
        return "[\n" + ",\n".join(lines) + "\n]"

    @classmethod
    def from_json(cls, rows):
        """Return the results that `to_json` wrote, from the parsed JSON."""
        results = cls()
        for row in rows:
            results.series(row["what"], row["subject"], row["unit"]).values.extend(row["values"])
        return results


def _rounded(series):
    """Return a series with four significant digits of each value."""
    return {**vars(series), "values": [float(f"{value:.4g}") for value in series.values]}


def table(head, rows, numbers=()):
    """Return a Markdown table; the columns of `numbers` are aligned to the right."""
    rule = ["---:" if place in numbers else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def format_number(value):
    """Return a number as text, with three significant digits or all digits before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
