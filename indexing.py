"""The indexing of a catalog: a slice of its attributes at a time, from where an attempt ended."""

import re
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Update, update

import catalog_rows
import drain
import nix
import task_queue
from attempts import Attempt, Cancelled, Outdated, Yielded
from catalog_models import CatalogIndex
from fields import MAX_NAME_LENGTH, NAME_PATTERN
from leases import NO_SYNC, Unindexed
from models import db, utcnow

SLICE = 400  # attributes in an evaluation
ROWS = 100  # in a transaction
NICENESS = 19
SAY_SECONDS = 5
PATIENCE_SECONDS = 1  # as long as a download waits for a thread before the index makes way
SETS = 500
MESSAGE_LENGTH = 300


def index(attempt: Attempt, subject: Unindexed) -> Sequence[Update]:
    """Index a catalog; return the statement of its success.

    Raises Yielded while another task waits or the service is drained, Outdated once the catalog is
    another.
    """
    return [_Run(attempt, subject).run()]


class _Run:
    """An attempt to index a catalog.

    `todo` lists the sets, `""` being the catalog itself, each with how many attributes are done.
    """

    def __init__(self, attempt: Attempt, subject: Unindexed) -> None:
        self.attempt = attempt
        self.subject = subject
        row = db.session.get_one(CatalogIndex, subject.index_id)
        self.todo: list[list[Any]] = [list(one) for one in row.todo] or [["", 0]]
        self.failures = dict(row.failures)
        db.session.rollback()
        self.survey = nix.Survey(
            attempt.store.with_tmp(attempt.tmp),
            self._catalog(),
            attempt.catalogs.allowed,
            heap=attempt.config["INDEX_BYTES"],
            niceness=NICENESS,
            tick=self._tick,
        )
        self.said_at = self.asked_at = 0.0

    def run(self) -> Update:
        """Index all sets, those that are met on the way, too."""
        done = sum(done for _, done in self.todo)
        self.attempt.say(f"attempt {self.attempt.lease.attempt}: indexing {self.subject.catalog}")
        if done:
            self.attempt.say(f"{done:,} attributes are indexed already")
        place = 0
        with nix.scratch(self.attempt.tmp):
            while place < len(self.todo):
                self._index_set(self.todo[place])
                place += 1
        self._say_progress()
        self.attempt.say(f"indexed, {len(self.failures):,} attributes can't be evaluated")
        finished = update(CatalogIndex).where(CatalogIndex.id == self.subject.index_id)
        return finished.values(finished_at=utcnow(), todo=self.todo, failures=self.failures)

    def _index_set(self, entry: list[Any]) -> None:
        within, done = entry
        names = self._names(within)
        rest = names[done:]
        expected = sum(done for _, done in self.todo) + len(rest)
        while batch := rest[:SLICE]:
            self._check()
            self.attempt.progress = nix.Progress(expected - len(rest), expected, "indexing")
            self._index_slice(entry, batch)
            rest = rest[SLICE:]
            if time.monotonic() >= self.said_at + SAY_SECONDS:
                self._say_progress()
        self.attempt.progress = nix.Progress(expected, expected, "indexing")

    def _names(self, within: str) -> list[str]:
        """Return the attributes of a set that can be asked for; none if it can't be evaluated."""
        try:
            names = self.survey.names(within)
        except nix.CATALOG_FAULTS as error:
            if not within:
                raise
            nix.check(self.attempt.store)
            self.failures[within] = _short(error)
            return []
        if not within:
            self._add_sets(self.attempt.config["INDEX_SETS"])
        prefix = f"{within}." if within else ""
        return [name for name in names if _can_be_asked(prefix, name)]

    def _index_slice(self, entry: list[Any], batch: Sequence[str]) -> None:
        within = entry[0]
        prefix = f"{within}." if within else ""
        found = self.survey.facts(batch, within)
        for attr, error in found.failures.items():
            self.failures[prefix + attr] = _short(error)
        self._add_sets(prefix + fact.attr for fact in found.known if fact.is_set)

        facts = {fact.attr: fact for fact in found.known}
        rest = iter(batch)
        while some := list(islice(rest, ROWS)):
            entry[1] += len(some)
            packages = [facts[attr] for attr in some if attr in facts and facts[attr].is_package]
            rows = catalog_rows.made_of(self.subject.index_id, prefix, packages)
            done = self.attempt.progress.done + len(some)
            self.attempt.progress = nix.Progress(done, self.attempt.progress.expected, "indexing")
            if self.attempt.save(partial(self._write, rows)):
                raise Cancelled

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows, and how far the index is by them, in the transaction of the lease."""
        catalog_rows.add(rows)
        state = update(CatalogIndex).where(CatalogIndex.id == self.subject.index_id)
        db.session.execute(
            state.values(todo=self.todo, failures=self.failures), execution_options=NO_SYNC
        )
        db.session.commit()

    def _add_sets(self, paths: Iterable[str]) -> None:
        """Append sets to the list, unless they are in it."""
        listed = {within for within, _ in self.todo}
        for path in paths:
            if path not in listed and len(listed) < SETS and "." not in path.rpartition(".")[2]:
                self.todo.append([path, 0])
                listed.add(path)

    def _tick(self, text: bytes, _progress: nix.Progress) -> None:
        """Go on evaluating, unless this attempt is to end or to make way."""
        self.attempt.tick(text, self.attempt.progress)
        if time.monotonic() >= self.asked_at + PATIENCE_SECONDS:
            self._make_way()

    def _check(self) -> None:
        """Raise Yielded or Outdated where this is not the time to go on."""
        self._make_way()
        self._catalog()

    def _make_way(self) -> None:
        """Raise Yielded while another task waits, or the service is drained."""
        self.asked_at = time.monotonic()
        if task_queue.is_other_waiting(PATIENCE_SECONDS):
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

    def _say_progress(self) -> None:
        self.said_at = time.monotonic()
        progress = self.attempt.progress
        self.attempt.say(f"indexed {progress.done:,} of {progress.expected:,} attributes")


def _can_be_asked(prefix: str, name: str) -> bool:
    """Tell whether an attribute has a name that a client may send.

    A dot leads into a set: in one, no name with a dot can be asked for.
    """
    path = prefix + name
    is_ambiguous = prefix != "" and "." in name
    return (
        len(path) <= MAX_NAME_LENGTH
        and re.match(NAME_PATTERN, path) is not None
        and not is_ambiguous
    )


def _short(error: nix.NixError) -> str:
    return " ".join(str(error).split())[:MESSAGE_LENGTH]
