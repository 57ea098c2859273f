"""What has changed since the last published run, beyond what the rounds of either run differ by."""

from dataclasses import dataclass

from measurements import Series, format_number, table

LEAST = 0.03
MORE_IS_BETTER = ("requests/s",)


@dataclass(frozen=True)
class Change:
    """A series in the published results and in the new ones."""

    before: Series
    after: Series

    @property
    def ratio(self):
        """The new median as a multiple of the old one."""
        return self.after.median / self.before.median

    @property
    def noise(self):
        """By how much the medians may differ without a change: the larger of both noises.

        That is LEAST of the old median at least: a series may have a single value.
        """
        least = LEAST * self.before.median
        return max(self.before.noise, self.after.noise, least)

    @property
    def is_beyond_noise(self):
        """Whether the medians differ by more than the noise."""
        return abs(self.after.median - self.before.median) > self.noise

    @property
    def is_better(self):
        """Whether the new median is the better one."""
        return (self.ratio > 1) == (self.after.unit in MORE_IS_BETTER)

    @property
    def row(self):
        """The cells of a table: quantity, subject, old, new, unit, change."""
        change = f"{100 * (self.ratio - 1):+.0f} %, {'better' if self.is_better else 'worse'}"
        medians = (format_number(one.median) for one in (self.before, self.after))
        return self.after.what, self.after.subject, *medians, self.after.unit, change


def changes(published, results):
    """Return the changes beyond the noise among the series that both results have."""
    pairs = ((published.find(one.what, one.subject, one.unit), one) for one in results.all())
    found = [Change(before, after) for before, after in pairs if before and before.median]
    return [change for change in found if change.is_beyond_noise]


def report(published, results):
    """Return Markdown: the changes beyond the noise, and how many series stayed as they were."""
    found = changes(published, results)
    common = [one for one in results.all() if published.find(one.what, one.subject, one.unit)]
    rest = f"{len(common) - len(found)} of {len(common)} figures that both runs have did not change"
    if not found:
        return f"{rest} beyond their spread."
    head = ("what", "subject", "before", "now", "unit", "change")
    return (
        f"{table(head, [one.row for one in found], numbers=(2, 3))}\n\n{rest} beyond their spread."
    )
