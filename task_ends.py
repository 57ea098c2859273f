"""How tasks end: why one failed, and how many ended in which way.

The counts stay when the tasks are deleted. They are in the database because a worker without HTTP,
`flask run-worker`, can't be scraped. They are written in the transaction that ends the task, right
before its commit: a transaction that waits for another one's counts holds all other rows that it
needs, so that no two wait for each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, String, event
from sqlalchemy.orm import Mapped, mapped_column

from models import AnyRow, Model, TaskKind, TaskStatus, db, upsert

PENDING = "pkgd.task_ends"  # in the session's info: what its transaction has to count
NO_CODE = ""
SUMS = ("tasks", "attempts", "seconds")


@dataclass(frozen=True)
class TaskError:
    """Why a task failed: a code for programs, a message and a hint for people.

    `reason` is that of a refusal.
    """

    code: str
    message: str
    hint: str
    reason: str | None = None


class TaskEnd(Model):
    """The tasks of a kind that have ended in one way, their attempts, and their time in sum."""

    __tablename__ = "task_ends"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    code: Mapped[str] = mapped_column(String(32), primary_key=True)  # of a failed task
    tasks: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]  # of the last attempts


def note(ended: AnyRow, status: TaskStatus, code: str | None, at: datetime) -> None:
    """Have a task counted when the session's transaction commits."""
    seconds = (at - ended.started_at).total_seconds() if ended.started_at else 0.0
    seconds = max(0.0, seconds)  # a clock that was set back must not have a counter go down
    row = {"kind": ended.kind.value, "status": status.value, "code": code or NO_CODE}
    counts = {"tasks": 1, "attempts": ended.attempt, "seconds": seconds}
    db.session.info.setdefault(PENDING, []).append(row | counts)


def ways(codes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return kind, status and code of each way in which a task can end."""
    failed = [(TaskStatus.FAILED, code) for code in codes]
    others = [(TaskStatus.SUCCEEDED, NO_CODE), (TaskStatus.CANCELLED, NO_CODE)]
    return [(kind, status, code) for kind in TaskKind for status, code in (*others, *failed)]


@event.listens_for(db.session, "before_commit")
def _count(session: Any) -> None:
    """Write the counts, those of several tasks in one order for all transactions."""
    for row in sorted(session.info.pop(PENDING, ()), key=_key):
        session.execute(_addition(row))


@event.listens_for(db.session, "after_soft_rollback")
def _forget(session: Any, _transaction: object) -> None:
    """Count nothing of a transaction that was rolled back."""
    session.info.pop(PENDING, None)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["kind"], row["status"], row["code"]


def _addition(row: dict[str, Any]) -> Any:
    """Return the statement that adds to the counts, or makes their row."""
    new = upsert(TaskEnd).values(row)
    sums = {name: getattr(TaskEnd, name) + new.excluded[name] for name in SUMS}
    return new.on_conflict_do_update(index_elements=["kind", "status", "code"], set_=sums)
