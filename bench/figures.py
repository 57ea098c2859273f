"""Figures: what was measured, of whom, and how they are laid out."""

from dataclasses import dataclass, field
from statistics import median


@dataclass
class Figure:
    """What one round after the other gave, of one thing, of one contestant."""

    what: str
    of: str
    unit: str
    values: list[float] = field(default_factory=list)
    beside: dict[str, list[float]] = field(default_factory=dict)

    def add(self, value, **beside):
        """Note a round's value, and the others that come with it."""
        self.values.append(value)
        for name, other in beside.items():
            self.beside.setdefault(name, []).append(other)

    @property
    def median(self):
        """The median of all rounds."""
        return median(self.values)

    @property
    def spread(self):
        """The least and the most, as text."""
        return f"{shown(min(self.values))} to {shown(max(self.values))}"


class Figures:
    """All figures, in the order in which they came."""

    def __init__(self):
        self._all = {}

    def of(self, what, of, unit):
        """Return the figure of that name, a new one if there is none."""
        return self._all.setdefault((what, of), Figure(what, of, unit))

    def median(self, what, of):
        """Return a figure's median."""
        return self._all[what, of].median

    def all(self):
        """Return all figures."""
        return self._all.values()

    def table(self):
        """Return everything as a Markdown table."""
        lines = ["| what | of | median | spread | unit | besides |", "|---|---|---:|---|---|---|"]
        for figure in self._all.values():
            beside = ", ".join(
                f"{name} {shown(median(values))} ms" for name, values in figure.beside.items()
            )
            cells = (figure.what, figure.of, shown(figure.median), figure.spread, figure.unit)
            lines.append(f"| {' | '.join(cells)} | {beside} |")
        return "\n".join(lines)


def shown(value):
    """Return a number with as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
