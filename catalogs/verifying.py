"""The verification of what a catalog's index offers: whether a download would find a derivation."""

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

from sqlalchemy import Update, func, select, update

import nix
from attempts import Attempt, Cancelled, Failed
from catalogs import offers
from catalogs.models import CatalogIndex, IndexedOffer
from catalogs.work import CatalogWork
from models import NO_SYNC, db, utcnow
from task_ends import TaskError
from task_subjects import Unverified

SLICE = 2000  # offers in an evaluation
ROWS = 25  # in a statement
EVALUATOR = "evaluator"  # a file in DATA_DIR
HOPELESS = 500  # offers that can't be had, one after another, after which the rest is left as it is

Outcomes = dict[int, nix.Derivation | nix.NotProvided]


def verify(attempt: Attempt, subject: Unverified) -> Sequence[Update]:
    """Evaluate what a catalog's index offers; return the statement of its success.

    Raises Yielded while another task waits or the service is drained, Outdated once the catalog is
    another, EvaluationFailed where nothing can be had.
    """
    return [_Run(attempt, subject).run()]


@dataclass(frozen=True)
class _Offer:
    """An offer of which it is not known yet whether it can be had."""

    id: int
    within: str
    path: str

    @property
    def attr(self) -> str:
        """The attribute in its set."""
        return self.path.removeprefix(nix.joined(self.within, ""))


class _Run(CatalogWork):
    """An attempt to verify what an index offers, of which it writes every KEEP_SECONDS."""

    def __init__(self, attempt: Attempt, subject: Unverified) -> None:
        super().__init__(attempt, subject)
        row = db.session.get_one(CatalogIndex, subject.index_id)
        self.verified = row.verified
        self.left = _unverified(row)
        db.session.rollback()
        self.found: nix.Found[nix.Derivation] = nix.Found()
        self.ids: dict[str, int] = {}  # of the offers in the evaluation, by path
        self.undecided = self.in_a_row = 0
        self.expected = self.verified + len(self.left)

    def run(self) -> Update:
        """Verify all offers, the top level of the catalog first."""
        self.attempt.say(f"attempt {self.attempt.lease.attempt}: verifying {self.subject.catalog}")
        if self.verified:
            self.attempt.say(f"{self.verified:,} versions are verified already")
        with nix.scratch(self.attempt.tmp):
            while self.left:
                self.check()
                self._verify_slice([self.left.popleft() for _ in range(min(SLICE, len(self.left)))])
                self.say_progress("verified", "versions")
        self._show_progress()
        self.say_progress("verified", "versions", is_last=True)
        self.attempt.say(f"verified, {self._refused():,} versions can't be had")
        return self._mine().values(verified_at=utcnow())

    def _verify_slice(self, batch: Sequence[_Offer]) -> None:
        self.ids = {offer.path: offer.id for offer in batch}
        wanted: dict[str, list[str]] = {}
        for offer in batch:
            wanted.setdefault(offer.within, []).append(offer.attr)
        self.survey.derivations(wanted, self.found)
        self.keep()

    def keep(self) -> None:
        """Write what has been evaluated, and how many that makes, in the lease's transaction.

        What ran into a bound, or needs what can't be fetched, is left open: a download may get it.
        """
        outcomes: Outcomes = {self.ids[one.path]: one for one in self.found.known}
        failures = self.found.failures.items()
        impossible = {
            path: error for path, error in failures if isinstance(error, nix.EvaluationFailed)
        }
        outcomes |= {
            self.ids[path]: nix.refusal(error) or error for path, error in impossible.items()
        }
        self.in_a_row = 0 if self.found.known else self.in_a_row + len(impossible)
        if self.in_a_row >= HOPELESS:
            raise Failed(_error(next(reversed(impossible.values()))))
        self.undecided += len(failures) - len(impossible)
        self.found.known.clear()
        self.found.failures.clear()
        self.verified += len(outcomes)
        self._show_progress()
        if outcomes and self.attempt.save(partial(self._write, outcomes)):
            raise Cancelled

    def _write(self, outcomes: Outcomes) -> None:
        coming = iter(outcomes.items())
        while some := dict(islice(coming, ROWS)):
            offers.note(some)
        mine = self._mine().values(verified=self.verified)
        db.session.execute(mine, execution_options=NO_SYNC)
        db.session.commit()

    def _mine(self) -> Update:
        return update(CatalogIndex).where(CatalogIndex.id == self.subject.index_id)

    def _show_progress(self) -> None:
        done = self.verified + self.undecided
        self.attempt.progress = nix.Progress(done, self.expected, "verifying")

    def _refused(self) -> int:
        """Return how many offers can't be had that an index without verification would offer."""
        refused = IndexedOffer.index_id == self.subject.index_id, IndexedOffer.message.is_not(None)
        count = db.session.scalar(select(func.count()).select_from(IndexedOffer).where(*refused))
        db.session.rollback()
        return count or 0


def _unverified(index: CatalogIndex) -> deque[_Offer]:
    """Return the offers of an index whose derivations were not evaluated, in its order."""
    sets = {within for within, _ in index.todo}
    mine = IndexedOffer.index_id == index.id, IndexedOffer.reason.is_(None)
    open_ = select(IndexedOffer.id, IndexedOffer.attr).where(*mine, IndexedOffer.drv_path.is_(None))
    found: deque[_Offer] = deque()
    for id_, attr in db.session.execute(open_.order_by(IndexedOffer.id)):
        above = attr.rpartition(".")[0]
        found.append(_Offer(id_, above if above in sets else "", attr))
    return found


def _error(error: nix.NixError) -> TaskError:
    message = f"{HOPELESS} versions in a row can't be evaluated, the last one since {error}"
    return TaskError(error.code, message, error.hint)


# --- For how long it holds ---


def evaluated_alike_since(store: nix.Store, folder: Path) -> datetime:
    """Return since when Nix and its settings are what they are, as far as this DATA_DIR tells.

    What was evaluated before may be otherwise now. A file says what they were when somebody looked
    last; of hosts with different ones that share the folder, each takes the other's for a change.
    """
    file, evaluator = folder / EVALUATOR, nix.evaluator(store)
    try:
        is_same = file.read_text() == evaluator
    except FileNotFoundError:
        is_same = False
    if not is_same:
        new = file.with_name(f".{EVALUATOR}-{uuid.uuid4()}")
        new.write_text(evaluator)
        new.rename(file)
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)
