"""The indexing of a catalog: a slice of its attributes at a time, from where an attempt ended."""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Any

from sqlalchemy import Update, update

import nix
from attempts import Attempt, Cancelled
from catalogs import offers
from catalogs.models import CatalogIndex
from catalogs.work import CatalogWork
from fields import MAX_NAME_LENGTH, NAME_PATTERN
from models import NO_SYNC, db, utcnow
from task_subjects import Unindexed

SLICE = 2000  # attributes in an evaluation
ROWS = 250  # in a transaction
SETS = 500
MESSAGE_LENGTH = 300


def index(attempt: Attempt, subject: Unindexed) -> Sequence[Update]:
    """Index a catalog; return the statement of its success.

    Raises Yielded while another task waits or the service is drained, Outdated once the catalog is
    another.
    """
    return [_Run(attempt, subject).run()]


class _Run(CatalogWork):
    """An attempt to index a catalog. What is evaluated is written every KEEP_SECONDS.

    `done` tells of each set, `""` being the catalog itself, how many of its attributes are indexed.
    """

    def __init__(self, attempt: Attempt, subject: Unindexed) -> None:
        super().__init__(attempt, subject)
        row = db.session.get_one(CatalogIndex, subject.index_id)
        self.done: dict[str, int] = dict(row.todo) or {"": 0}
        self.failures = dict(row.failures)
        self.failed_before = row.failures.keys()  # in earlier attempts
        db.session.rollback()
        self.listed: set[str] = set()  # the sets of which `left` was made
        self.left: deque[tuple[str, str]] = deque()  # attributes to be indexed, each after its set
        self.batch: deque[tuple[str, str]] = deque()  # those in the evaluation, as far as unwritten
        self.found: nix.Found[nix.Fact] = nix.Found()

    def run(self) -> Update:
        """Index all sets, those that are met on the way, too."""
        self.attempt.say(f"attempt {self.attempt.lease.attempt}: indexing {self.subject.catalog}")
        if done := sum(self.done.values()):
            self.attempt.say(f"{done:,} attributes are indexed already")
        self._add_sets(self.attempt.config["INDEX_SETS"])
        with nix.scratch(self.attempt.tmp):
            self._list_sets()
            while self.left:
                self.check()
                self._show_progress()
                self._index_slice()
                if not self.left:
                    self._list_sets()
                self.say_progress("indexed", "attributes")
        self._show_progress()
        self.say_progress("indexed", "attributes", is_last=True)
        self.attempt.say(f"indexed, {len(self.failures):,} attributes can't be evaluated")
        return self._state().values(finished_at=utcnow())

    def _list_sets(self) -> None:
        """Add the attributes of all sets that are new, as far as they are not indexed.

        An earlier attempt may have told already why some of them can't be evaluated.
        """
        new = [within for within in self.done if within not in self.listed | self.failures.keys()]
        self.listed.update(new)
        for within, names in zip(new, self._members(new), strict=True):
            can = [name for name in names if _can_be_asked(within, name)]
            for name in can[self.done[within] :]:
                self.left.append((within, name))
                path = nix.joined(within, name)
                if path in self.failed_before:
                    self.failures.pop(path, None)

    def _members(self, sets: Sequence[str]) -> list[list[str]]:
        """Return the attributes of each set; none of one that can't be evaluated."""
        try:
            return self.survey.members(sets) if sets else []
        except nix.CATALOG_FAULTS as error:
            nix.check(self.attempt.store)
            if len(sets) > 1:
                return [names for within in sets for names in self._members([within])]
            if sets == [""]:
                raise
            self.failures[sets[0]] = offers.short(error, MESSAGE_LENGTH)
            return [[]]

    def _index_slice(self) -> None:
        """Index the next attributes, but for those of a set that was given up."""
        wanted: dict[str, list[str]] = {}
        while self.left and len(self.batch) < SLICE:
            within, attr = self.left.popleft()
            self.batch.append((within, attr))
            if within not in self.failures:
                wanted.setdefault(within, []).append(attr)
        self.survey.facts(wanted, self.found)
        self.keep()

    def keep(self) -> None:
        """Write the rows of what has been evaluated."""
        self.failures |= {
            path: offers.short(error, MESSAGE_LENGTH) for path, error in self.found.failures.items()
        }
        known = self.found.known
        self._add_sets(fact.path for fact in known if fact.is_set and "." not in fact.attr)
        facts = {(fact.within, fact.attr): fact for fact in known}
        self.found.known.clear()
        self.found.failures.clear()

        def is_evaluated(one: tuple[str, str]) -> bool:
            within, _ = one
            return one in facts or within in self.failures or nix.joined(*one) in self.failures

        evaluated = list(takewhile(is_evaluated, self.batch))
        for start in range(0, len(evaluated), ROWS):
            self._keep(evaluated[start : start + ROWS], facts)

    def _keep(
        self, some: Sequence[tuple[str, str]], facts: Mapping[tuple[str, str], nix.Fact]
    ) -> None:
        """Write the rows of attributes that have been evaluated."""
        rows: list[dict[str, Any]] = []
        for within, group in groupby(some, key=itemgetter(0)):
            together = list(group)
            self.done[within] += len(together)
            known = [facts[each] for each in together if each in facts]
            packages = [fact for fact in known if fact.is_package]
            made = partial(offers.made_of, self.subject.index_id, within, packages)
            rows += self.attempt.patiently(made)
        for _ in some:
            self.batch.popleft()
        self._show_progress()
        if self.attempt.save(partial(self._write, rows)):
            raise Cancelled

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows, and how far the index is by them, in the transaction of the lease."""
        offers.add(rows)
        db.session.execute(self._state(), execution_options=NO_SYNC)
        db.session.commit()

    def _state(self) -> Update:
        """Return the statement that records how far the index is."""
        mine = update(CatalogIndex).where(CatalogIndex.id == self.subject.index_id)
        return mine.values(todo=list(map(list, self.done.items())), failures=self.failures)

    def _add_sets(self, paths: Iterable[str]) -> None:
        """Add sets to those that are to be indexed."""
        for path in paths:
            if len(self.done) < SETS:
                self.done.setdefault(path, 0)

    def _show_progress(self) -> None:
        done = sum(self.done.values())
        expected = done + len(self.batch) + len(self.left)
        self.attempt.progress = nix.Progress(done, expected, "indexing")


def _can_be_asked(within: str, name: str) -> bool:
    """Tell whether an attribute of a set has a name that a client may send.

    A dot leads into a set: in one, no name with a dot can be asked for.
    """
    path = nix.joined(within, name)
    is_ambiguous = within != "" and "." in name
    return (
        len(path) <= MAX_NAME_LENGTH
        and re.match(NAME_PATTERN, path) is not None
        and not is_ambiguous
    )
