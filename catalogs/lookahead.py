"""Looking ahead: what waits in the queue is resolved by the evaluation for one that is due.

To start Nix and to load a catalog takes most of an evaluation. So the worker that needs one has it
resolve some of the next downloads, too. What that finds is kept for a moment, in this process.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import nix
import task_queue
from attempts import Attempt
from catalogs.state import Choice
from task_queue import Queued
from task_subjects import Wanted

TOGETHER = 8  # packages in an evaluation
# More where another evaluation is needed so soon after one began: it was short, and so were the
# builds of what it found. At that rate, those of 32 begin before what is found of them is stale.
TOGETHER_IF_SHORT, SHORT_SECONDS = 32, 2
LOOKED_AT = 128  # tasks in the queue
FRESH_SECONDS = 10  # in which a catalog outside the store may change unseen
EVALUATION_SECONDS = 30
# Of an evaluation that fails it is not known which package is at fault: each is evaluated alone.
PAUSE_SECONDS = 60


@dataclass(frozen=True)
class _Found:
    """What was found for a task, by which choice of catalogs, and until when that counts."""

    choice: Choice
    found: nix.Resolution
    until: float


class Lookahead:
    """What was found of queued downloads, by the number of their tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[int, _Found] = {}
        self._evaluated: set[int] = set()  # just now, by threads of this process
        self._short_until = 0.0
        self._paused_until = 0.0

    def resolve(self, attempt: Attempt, wanted: Wanted, choice: Choice) -> nix.Resolution | None:
        """Return the derivation of a package: one found before, or together with others.

        None where nothing waits, or where the package must be evaluated alone.
        """
        mine = attempt.lease.seq
        with self._lock:
            known = self._found.pop(mine, None)
        if known is not None and known.choice == choice and time.monotonic() < known.until:
            return known.found if os.path.lexists(known.found.drv_path) else None
        if time.monotonic() < self._paused_until:
            return None
        with self._taken(mine) as next_ones:
            names = ((one.name, one.version) for one in next_ones)
            choices = zip(next_ones, attempt.catalogs.best_for_each(names), strict=True)
            others = [(one, its) for one, its in choices if _is_alike(its, choice)]
            return self._resolve_all(attempt, wanted, choice, others) if others else None

    @contextmanager
    def _taken(self, mine: int) -> Iterator[list[Queued]]:
        """Yield the next downloads that no thread of this process resolves, or has resolved."""
        due, now = task_queue.next_downloads(LOOKED_AT), time.monotonic()
        with self._lock:
            self._found = {seq: one for seq, one in self._found.items() if now < one.until}
            known = self._found.keys() | self._evaluated
            most = TOGETHER_IF_SHORT if now < self._short_until else TOGETHER
            others = [one for one in due if one.seq not in known][: most - 1]
            seqs = {mine, *(one.seq for one in others)}
            self._evaluated |= seqs
        try:
            yield others
        finally:
            with self._lock:
                self._evaluated -= seqs

    def _resolve_all(
        self,
        attempt: Attempt,
        wanted: Wanted,
        choice: Choice,
        others: Sequence[tuple[Queued, Choice]],
    ) -> nix.Resolution | None:
        """Resolve a package and others; keep what is found of these."""
        packages = [(wanted.name, wanted.version, choice.avoided)]
        packages += [(one.name, one.version, its.avoided) for one, its in others]
        began = time.monotonic()
        try:
            mine, *found = nix.resolve_all(
                attempt.store,
                choice.catalogs,
                [nix.Sought(*package) for package in packages],
                allowed=attempt.catalogs.allowed,
                seconds=EVALUATION_SECONDS,
                tick=attempt.tick,
                tmp=attempt.tmp,
            )
        except nix.CATALOG_FAULTS:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            return None
        until = time.monotonic() + FRESH_SECONDS
        new = {
            one.seq: _Found(its, its_found, until)
            for (one, its), its_found in zip(others, found, strict=True)
            if its_found is not None
        }
        with self._lock:
            self._found |= new
            self._short_until = began + SHORT_SECONDS
        return mine


def _is_alike(one: Choice, other: Choice) -> bool:
    """Tell whether two packages are evaluated in the same way."""
    return one.verified is None and one.catalogs == other.catalogs
