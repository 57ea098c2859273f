"""Work on a whole catalog, which makes way for other tasks: the base of indexing and verifying.

Within an evaluation, too, it looks whether another task waits once every PATIENCE_SECONDS, and
writes what has been evaluated once every KEEP_SECONDS: what others have read is then read again.
"""

import time
from functools import partial

import drain
import nix
import services
import task_queue
from attempts import Attempt, Outdated, Yielded
from task_subjects import Unindexed
from traffic import Traffic

NICENESS = 19
BUSY_SHARE = 0.15  # of the time, in which catalogs are evaluated while requests are served
SAY_SECONDS = 5
PATIENCE_SECONDS = 1  # for which a download waits for a thread before the work makes way
KEEP_SECONDS = 5


class CatalogWork:
    """An attempt at work on a catalog by `survey`, whose evaluations are small and come last."""

    def __init__(self, attempt: Attempt, subject: Unindexed) -> None:
        """Prepare the survey. Raises Outdated if the catalog has changed or is gone."""
        self.attempt = attempt
        self.subject = subject
        self.traffic = services.get(Traffic)
        self.said_at = self.asked_at = 0.0
        self.kept_at = time.monotonic()
        self.survey = nix.Survey(
            attempt.store.with_tmp(attempt.tmp),
            self._catalog(),
            attempt.catalogs.allowed,
            heap=attempt.config["INDEX_BYTES"],
            priority=nix.Priority(NICENESS, self._share),
            tick=self._tick,
        )

    def _share(self) -> float:
        """Return the part of the time in which to evaluate at present."""
        return BUSY_SHARE if self.traffic.is_any() else 1

    def check(self) -> None:
        """Raise Yielded or Outdated where this is not the time to go on."""
        self._make_way()
        self.attempt.patiently(self._catalog)

    def keep(self) -> None:
        """Write what an evaluation that goes on has told so far."""

    def say_progress(self, done: str, what: str, *, is_last: bool = False) -> None:
        """Tell how far the work is, though not more often than every SAY_SECONDS."""
        if is_last or time.monotonic() >= self.said_at + SAY_SECONDS:
            self.said_at = time.monotonic()
            progress = self.attempt.progress
            self.attempt.say(f"{done} {progress.done:,} of {progress.expected:,} {what}")

    def _tick(self, text: bytes, _progress: nix.Progress) -> None:
        """Go on evaluating, unless this attempt is to end or to make way."""
        self.attempt.tick(text, self.attempt.progress)
        now = time.monotonic()
        if now >= self.kept_at + KEEP_SECONDS:
            self.kept_at = now
            self.keep()
        if now >= self.asked_at + PATIENCE_SECONDS:
            self._make_way()

    def _make_way(self) -> None:
        """Raise Yielded while another task waits, or the service is drained; first, write."""
        self.asked_at = time.monotonic()
        kind = self.attempt.lease.kind
        is_waiting = partial(task_queue.is_other_waiting, kind, PATIENCE_SECONDS)
        if self.attempt.patiently(is_waiting):
            self.keep()
            raise Yielded("another task waits")
        drained = drain.reason(self.attempt.data_dir)
        if drained is not None:
            self.keep()
            raise Yielded(drained)

    def _catalog(self) -> nix.Catalog:
        """Return the catalog. Raises Outdated if it has changed or is gone."""
        for state in self.attempt.catalogs.states():
            if state.catalog.name == self.subject.catalog:
                if state.signature != self.subject.signature:
                    raise Outdated("the catalog has changed; another task indexes it as it is now")
                return state.catalog
        raise Outdated("the catalog is gone")
