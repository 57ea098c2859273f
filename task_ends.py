"""The end of tasks: every one goes through `end`, with its error if it failed.

There it is counted, and told by an event.

The counts stay when the tasks are deleted. They are in the database because a worker without HTTP,
`flask run-worker`, can't be scraped. They are written in the transaction that ends the task.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import BigInteger, String, bindparam, update
from sqlalchemy.orm import Mapped, mapped_column

import last_writes
import nix
import task_events
from models import NO_SYNC, AnyRow, Model, Task, TaskKind, TaskStatus, db, upsert, utcnow
from task_subjects import SUBJECT

NO_CODE = ""
SUMS = ("tasks", "attempts", "seconds")
ERROR_FIELDS = ("code", "message", "hint", "reason")
ENDED = (Task.id, Task.attempt, Task.started_at, *SUBJECT)

CODES = {
    "lost": "In each of its attempts the task's worker was gone before the end.",
    "superseded": "Of an apply that was cancelled: a newer one, or a switch, took its place.",
    "download_failed": "Of an apply: packages of the set could not be downloaded.",
    "lock_mismatch": "Of an apply: a package has another store path than the set insists on.",
    "check_failed": "Of an apply: PROFILE_CHECK failed, and the profile is what it was.",
    "profile_changed": "Of an apply: the profile is no longer what If-Match named.",
}


@dataclass(frozen=True)
class TaskError:
    """Why a task failed: a code for programs, a message and a hint for people.

    `reason` is that of a refusal.
    """

    code: str
    message: str
    hint: str
    reason: str | None = None


def error_codes() -> dict[str, str]:
    """Return each code that a task can end with, and its meaning in a line."""
    return nix.codes() | CODES


class TaskEnd(Model):
    """The tasks of a kind that have ended in one way, their attempts, and their time in sum."""

    __tablename__ = "task_ends"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    code: Mapped[str] = mapped_column(String(32), primary_key=True)  # of a failed task
    tasks: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]  # of the last attempts


def end(
    *where: Any,
    status: TaskStatus,
    error: TaskError | None = None,
    key: Mapping[str, Any] = MappingProxyType({}),
    **more: Any,
) -> Sequence[AnyRow]:
    """End the tasks that `where` selects, without a commit, and return them.

    `key` are the values of its parameters, `more` other values to write.
    """
    now = utcnow()
    told = {f"its_{name}": getattr(error, name, None) for name in ERROR_FIELDS}
    ended = {"ended_as": status, "now": now, **told, **key}
    ending = _ENDING.where(*where)
    if more:
        ending = ending.values(**more)
    tasks = db.session.execute(ending, ended, execution_options=NO_SYNC).all()
    code = error.code if error and status == TaskStatus.FAILED else None
    for task in tasks:
        _note(task, status, code, now)
    task_events.tell_ended([task.seq for task in tasks], status)
    return tasks


def _note(ended: AnyRow, status: TaskStatus, code: str | None, at: datetime) -> None:
    """Have a task counted when the session's transaction commits."""
    seconds = (at - ended.started_at).total_seconds() if ended.started_at else 0.0
    seconds = max(0.0, seconds)  # a clock that was set back must not have a counter go down
    row = {"kind": ended.kind.value, "status": status.value, "code": code or NO_CODE}
    counts = {"tasks": 1, "attempts": ended.attempt, "seconds": seconds}
    addition = _addition(db.engine.dialect.name)
    last_writes.add(last_writes.Place.COUNT, tuple(row.values()), addition, row | counts)


def ways(codes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return kind, status and code of each way in which a task can end."""
    failed = [(TaskStatus.FAILED, code) for code in codes]
    others = [(TaskStatus.SUCCEEDED, NO_CODE), (TaskStatus.CANCELLED, NO_CODE)]
    return [(kind, status, code) for kind in TaskKind for status, code in (*others, *failed)]


@cache
def _addition(_dialect: str) -> Any:
    """Return the statement that adds to the counts, or makes their row, in a kind of database."""
    new = upsert(TaskEnd)
    sums = {name: getattr(TaskEnd, name) + new.excluded[name] for name in SUMS}
    return new.on_conflict_do_update(index_elements=["kind", "status", "code"], set_=sums)


# Built at import, since building takes longer than executing.
_ENDING = (
    update(Task)
    .values(
        status=bindparam("ended_as"),
        finished_at=bindparam("now"),
        waiting=None,
        phase=None,
        lease_holder=None,
        lease_until=None,
        **{f"error_{name}": bindparam(f"its_{name}") for name in ERROR_FIELDS},
    )
    .returning(*ENDED)
)
