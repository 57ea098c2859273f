"""One run of any task: it renews the lease, and writes log and progress, while Nix works."""

import errno
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from flask import Flask
from sqlalchemy import Executable

import build_logs
import nix
import services
from catalogs.state import Catalogs
from leases import Lease, LeaseLost
from models import DATABASE_AWAY, NO_SYNC, TaskKind, cause, db
from task_ends import TaskError

log = logging.getLogger("pkgd.worker")

T = TypeVar("T")

FLUSH_SECONDS = 0.4
RETRY_SECONDS = (5, 30)  # between the attempts that Nix, and not the package, made fail
# Between those that the network made fail, where Nix itself has tried a few times in each.
FETCH_RETRY_SECONDS = (1, 4)
FLUSH_BYTES = 1024 * 1024

# What each kind of task begins with. Until the next phase, a fault of the host costs no attempt.
FIRST_PHASES = {
    TaskKind.DOWNLOAD: "resolving",
    TaskKind.INDEX: "indexing",
    TaskKind.VERIFY: "verifying",
    TaskKind.APPLY: "applying",
    TaskKind.PUBLISH: "publishing",
}


class Stopped(Exception):
    """The service stops: the task goes back to the queue."""


class Cancelled(Exception):
    """A user asked for the task to be stopped."""


class Yielded(Exception):
    """The task goes back to the queue, to be gone on with later; the message says why."""


class Waiting(Exception):
    """The cache can't be used for the moment: the task goes on later; the message says why."""


class Failed(Exception):
    """The task can't be done, for a reason that Nix knows nothing of."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error


class Outdated(Exception):
    """What the task was to do is no longer wanted."""

    def __init__(self, reason: TaskError | str) -> None:
        """Say why, in words or by an error that the task is to show."""
        super().__init__(reason.message if isinstance(reason, TaskError) else reason)
        self.error = reason if isinstance(reason, TaskError) else None


class Attempt:
    """One run of a task under its lease."""

    def __init__(self, lease: Lease, app: Flask, stopping: threading.Event) -> None:
        """Prepare a run under `lease`; the event `stopping` ends it early."""
        self.lease = lease
        self.config = app.config
        self.store: nix.Store = services.get(nix.Store, app)
        self.availability = services.get(nix.Availability, app)
        self.catalogs = services.get(Catalogs, app)
        self.stopping = stopping
        self.data_dir: Path = app.config["DATA_DIR"]
        # One per attempt, so that a worker that wakes after losing its lease removes only its own
        # files.
        self.tmp = self.data_dir / "tmp" / str(lease.task_id) / str(lease.attempt)
        self.progress = nix.Progress(done=0, expected=0, phase=FIRST_PHASES[lease.kind])

        self._notes: list[Executable] = []  # until they are written
        self._shown: nix.Progress | None = None
        self._log = bytearray()
        self._log_start = build_logs.end(lease.seq, lease.attempt)
        self._log_full = False
        self._flushed_at = self._renewed_at = time.monotonic()

    def run(self, work: "Work") -> None:
        """Carry the task out by `work`, and write how it ended."""
        try:
            self.save(self._outcome(work))
        except LeaseLost:
            db.session.rollback()
            self._warn("its lease is gone, nothing more is written")
        finally:
            with suppress(OSError):  # it is not empty while another attempt works in it
                self.tmp.parent.rmdir()

    def tick(self, text: bytes, progress: nix.Progress) -> None:
        """Take new log and progress; raise Stopped, Cancelled or LeaseLost to stop the run."""
        self._take(text)
        self.progress = progress
        if self.stopping.is_set():
            raise Stopped
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS or len(self._log) >= FLUSH_BYTES:
            self._flush_or_wait()

    def beat(self) -> None:
        """Renew the lease in time; raise Stopped, Cancelled or LeaseLost to stop the run."""
        self.tick(b"", self.progress)

    def check(self) -> None:
        """Raise Stopped, Cancelled or LeaseLost as `beat` does, by the database as it is now."""
        if self.stopping.is_set():
            raise Stopped
        if self.lease.is_cancel_requested():
            raise Cancelled

    def note(self, statement: Executable) -> None:
        """Have a statement executed with what is written next."""
        self._notes.append(statement)

    def say(self, sentence: str, level: int = logging.INFO) -> None:
        """Add a line of our own to the task's log and to the service's."""
        subject = self.lease.subject
        log.log(level, "%s: %s", subject.label, sentence, extra=subject.facts)
        self._log += nix.plain(f"pkgd: {sentence}\n").encode()

    def save(self, write: Callable[[], None]) -> bool:
        """Write the rest of the log and more in one transaction, once the database takes it.

        `write` commits it. Return True when a cancel was requested.
        """

        def write_all() -> bool:
            is_cancelled = self.stage()
            write()
            return is_cancelled

        is_cancelled = self.patiently(write_all)
        self._forget_written()
        return is_cancelled

    def patiently(self, step: Callable[[], T]) -> T:
        """Return what a step returns, once the database is there for it.

        Raises LeaseLost when it is away for nearly as long as the lease.
        """
        while True:
            try:
                return step()
            except DATABASE_AWAY as error:
                self._give_up_or_wait(error)
                time.sleep(FLUSH_SECONDS)

    def _outcome(self, work: "Work") -> Callable[[], None]:
        """Run, and return the method that writes how it ended."""
        lease = self.lease
        try:
            if lease.attempt > 1 or self.tmp.parent.exists():
                nix.sweep(self.tmp.parent)  # what killed attempts have left behind
            effects = work(self)

        except Stopped:
            self.say("the service stops; the task goes back to the queue")
            return lease.requeue
        except Cancelled:
            self.say("cancelled")
            return lease.cancel
        except Yielded as reason:
            self.say(f"{reason}; the task goes back to the queue")
            return lease.requeue
        except Waiting as reason:
            self.say(f"{reason}; the task waits")
            return partial(lease.wait, str(reason).partition("\n")[0])
        except Outdated as reason:
            self.say(f"cancelled: {reason}")
            return partial(lease.cancel, reason.error)
        except Failed as failed:
            self.say(f"failed: {failed.error.code}")
            return partial(lease.fail, failed.error)
        except nix.NixMissing:
            return lease.requeue
        except nix.NixError as error:
            return self._failing(error)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return self._failing(nix.DiskFull(str(error)))
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                return self._failing(nix.NixUnavailable(str(error.strerror)))
            raise

        return partial(lease.succeed, *effects)

    def _failing(self, error: nix.NixError) -> Callable[[], None]:
        """Return the method that writes why the task failed, or that has it tried again."""
        fault = self.availability.fault_now(self.store)
        if fault is not None and self.progress.phase == FIRST_PHASES[self.lease.kind]:
            self.say(f"{fault}; the task goes back to the queue")
            return self.lease.requeue
        if isinstance(fault or error, nix.NixUnavailable):
            return self._retrying(fault or error, nix.NixUnavailable.code, RETRY_SECONDS)
        if isinstance(error, nix.FetchFailed) and error.fault.is_transient:
            return self._retrying(error, error.code, FETCH_RETRY_SECONDS)

        kind = error if error.code else nix.BuildFailed
        reason = error.reason if isinstance(error, nix.Refused) else None
        task_error = TaskError(kind.code, str(error), error.hint, reason)
        self.say(f"failed: {task_error.code}", logging.WARNING)
        return lambda: self.lease.fail(task_error)

    def _retrying(
        self, error: nix.NixError, code: str, seconds: tuple[float, ...]
    ) -> Callable[[], None]:
        """Return the method that puts the task back for its next attempt, if it has one."""
        waits = dict(enumerate(seconds, start=1))
        wait = waits.get(self.lease.attempt)
        follows = f"failed: {code}" if wait is None else f"the next attempt follows in {wait} s"
        self.say(str(error), logging.WARNING)
        self.say(follows, logging.WARNING)
        task_error = TaskError(code, str(error), error.hint)
        return lambda: self.lease.retry(task_error, wait or 0)

    def _flush_or_wait(self) -> None:
        """Flush; while the database is down, wait for it until the lease is nearly over."""
        try:
            if self._flush():
                raise Cancelled
        except DATABASE_AWAY as error:
            self._give_up_or_wait(error)
            self._flushed_at = time.monotonic()

    def _flush(self) -> bool:
        """Write what is new and renew the lease; return True when a cancel was requested."""
        now = time.monotonic()
        due = now - self._renewed_at >= self.config["LEASE_SECONDS"] / 3
        if self._log or self._notes or self.progress != self._shown or due:
            requested = self.stage()
            db.session.commit()
            self._forget_written()
        else:
            requested = self.lease.is_cancel_requested()
            self._flushed_at = now
        return requested

    def _forget_written(self) -> None:
        """Note that all that was new is written, and the lease renewed."""
        self._notes.clear()
        self._log_start += len(self._log)
        self._log.clear()
        self._shown = self.progress
        self._flushed_at = self._renewed_at = time.monotonic()

    def stage(self) -> bool:
        """Write a longer lease, the progress and a piece of log, without a commit.

        Return True when a cancel was requested; raise LeaseLost when the lease is gone.
        """
        # First of all, since it raises LeaseLost where the task is gone, with its log.
        requested = self.lease.renew(
            self.config["LEASE_SECONDS"],
            done=self.progress.done,
            expected=self.progress.expected,
            phase=self.progress.phase,
        )
        for note in self._notes:
            db.session.execute(note, execution_options=NO_SYNC)
        if self._log:
            seq, attempt = self.lease.seq, self.lease.attempt
            build_logs.append(seq, attempt, self._log_start, bytes(self._log))
        return requested

    def _give_up_or_wait(self, error: Exception) -> None:
        """Raise LeaseLost when the database has been down for nearly as long as the lease."""
        db.session.rollback()
        self._warn(f"database: {cause(error)}")
        # Past its end another worker may take the task.
        if time.monotonic() - self._renewed_at > self.config["LEASE_SECONDS"] * 5 / 6:
            raise LeaseLost

    def _warn(self, what: str) -> None:
        """Warn in the service's log of what can't be written to the task's."""
        subject = self.lease.subject
        line = "task %s: %s (%s)"
        log.warning(line, self.lease.task_id, what, subject.label, extra=subject.facts)

    def _take(self, text: bytes) -> None:
        """Add build log up to LOG_BYTES, where the log is cut while the build goes on."""
        limit = self.config["LOG_BYTES"]
        room = max(0, limit - self._log_start - len(self._log))
        if len(text) <= room:
            self._log += text
        elif not self._log_full:
            self._log_full = True
            whole_lines = text[: text.rfind(b"\n", 0, room) + 1]
            self._log += whole_lines
            self.say(f"the log is cut here, at its limit of {limit} bytes; the build goes on")


# What a task does; it returns the statements that are executed with the task's success.
Work = Callable[[Attempt], Sequence[Executable]]
