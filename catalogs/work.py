"""Work on a whole catalog, which makes way for other tasks: the base of indexing and verifying."""

import time

import drain
import nix
import task_queue
from attempts import Attempt, Outdated, Yielded
from task_subjects import Unindexed

PRIORITY = nix.Priority(niceness=19, share=0.4)
SAY_SECONDS = 5
PATIENCE_SECONDS = 1  # as long as a download waits for a thread before the work makes way


class CatalogWork:
    """An attempt at work on a catalog by `survey`, whose evaluations are small and come last."""

    def __init__(self, attempt: Attempt, subject: Unindexed) -> None:
        """Prepare the survey. Raises Outdated if the catalog has changed or is gone."""
        self.attempt = attempt
        self.subject = subject
        self.said_at = self.asked_at = 0.0
        self.survey = nix.Survey(
            attempt.store.with_tmp(attempt.tmp),
            self._catalog(),
            attempt.catalogs.allowed,
            heap=attempt.config["INDEX_BYTES"],
            priority=PRIORITY,
            tick=self._tick,
        )

    def check(self) -> None:
        """Raise Yielded or Outdated where this is not the time to go on."""
        self._make_way()
        self._catalog()

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
        if time.monotonic() >= self.asked_at + PATIENCE_SECONDS:
            self.keep()
            self._make_way()

    def _make_way(self) -> None:
        """Raise Yielded while another task waits, or the service is drained."""
        self.asked_at = time.monotonic()
        if task_queue.is_other_waiting(self.attempt.lease.kind, PATIENCE_SECONDS):
            raise Yielded("another task waits")
        drained = drain.reason(self.attempt.data_dir)
        if drained is not None:
            raise Yielded(drained)

    def _catalog(self) -> nix.Catalog:
        """Return the catalog. Raises Outdated if it has changed or is gone."""
        for state in self.attempt.catalogs.states():
            if state.catalog.name == self.subject.catalog:
                if state.signature != self.subject.signature:
                    raise Outdated("the catalog has changed; another task indexes it as it is now")
                return state.catalog
        raise Outdated("the catalog is gone")
