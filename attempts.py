"""One run of a task: it renews the lease, and writes log and progress, while Nix works."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flask import Flask

import build_logs
import gc_roots
import nix
import services
from catalog_state import Catalogs
from models import DATABASE_AWAY, cause, db
from task_queue import Found, Lease, LeaseLost, Realised, TaskError

log = logging.getLogger("pkgd.worker")

FLUSH_SECONDS = 0.4
RETRY_SECONDS = (5, 30)  # between the attempts that Nix, and not the package, made fail
# Between those that the network made fail, where Nix itself has tried a few times in each.
FETCH_RETRY_SECONDS = (1, 4)
FLUSH_BYTES = 256 * 1024


class Stopped(Exception):
    """The service stops: the task goes back to the queue."""


class Cancelled(Exception):
    """A user asked for the task to be stopped."""


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
        self.progress = nix.Progress(done=0, expected=0, phase="resolving")

        self._found: Found | None = None  # until it is written
        self._shown: nix.Progress | None = None
        self._log = bytearray()
        self._log_start = build_logs.end(lease.seq, lease.attempt)
        self._log_full = False
        self._flushed_at = self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Carry the task out, and write how it ended."""
        try:
            self._write_end(self._outcome())
        except LeaseLost:
            db.session.rollback()
            log.warning("task %s: its lease is gone, nothing more is written", self.lease.task_id)
        finally:
            with suppress(OSError):  # it is not empty while another attempt works in it
                self.tmp.parent.rmdir()

    def realise(self) -> Realised:
        """Resolve the package, build or fetch it, and root it."""
        found = self._resolve()
        try:
            paths = self._realise_outputs(found)
        except nix.BuildFailed:
            if nix.valid_paths(self.store, [found.drv_path]):
                raise
            # No root keeps a derivation: it may be garbage-collected before the build begins.
            found = self._resolve()
            paths = self._realise_outputs(found)

        self.progress = nix.Progress(self.progress.done, self.progress.expected, "rooting")
        size = nix.closure_size(self.store, paths)
        self._say(f"downloaded {paths[0]}, {size} bytes with all that it needs")
        return Realised(store_paths=paths, closure_size=size)

    def tick(self, text: bytes, progress: nix.Progress) -> None:
        """Take new log and progress; raise Stopped, Cancelled or LeaseLost to stop the run."""
        self._take(text)
        self.progress = progress
        if self.stopping.is_set():
            raise Stopped
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS or len(self._log) >= FLUSH_BYTES:
            self._flush_or_wait()

    def _resolve(self) -> nix.Resolution:
        name, version = self.lease.name, self.lease.version
        self._say(f"attempt {self.lease.attempt}: resolving {name} {version}")
        found = nix.resolve(
            self.store,
            self.catalogs.in_order(),
            name,
            version,
            allowed=self.catalogs.allowed,
            tick=self.tick,
            tmp=self.tmp,
        )
        self._found = Found(found.catalog, found.attr, found.spelled, found.drv_path)
        self._say(f"found as {found.attr} in {found.catalog}: {found.drv_path}")
        return found

    def _realise_outputs(self, found: nix.Resolution) -> tuple[str, ...]:
        return tuple(
            self._realise_output(found.drv_path, output, number)
            for number, output in enumerate(found.outputs)
        )

    def _realise_output(self, drv_path: str, output: str, number: int) -> str:
        return nix.realise(
            self.store,
            drv_path,
            output,
            root=gc_roots.link(self.data_dir, self.lease.package_id, number),
            builders=self.config["BUILDERS"],
            build_seconds=self.config["BUILD_SECONDS"],
            silence_seconds=self.config["SILENCE_SECONDS"],
            tick=self.tick,
            tmp=self.tmp,
        )

    def _outcome(self) -> Callable[[], None]:
        """Run, and return the method that writes how it ended."""
        lease = self.lease
        try:
            if lease.attempt > 1 or self.tmp.parent.exists():
                nix.sweep(self.tmp.parent)  # what killed attempts have left behind
            realised = self.realise()

        except Stopped:
            self._say("the service stops; the task goes back to the queue")
            return lease.requeue
        except Cancelled:
            self._say("cancelled")
            return lease.cancel
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

        return lambda: lease.succeed(realised)

    def _failing(self, error: nix.NixError) -> Callable[[], None]:
        """Return the method that writes why the task failed, or that has it tried again."""
        fault = self.availability.fault_now(self.store)
        if fault is not None and self.progress.phase == "resolving":
            self._say(f"{fault}; the task goes back to the queue")
            return self.lease.requeue
        if isinstance(fault or error, nix.NixUnavailable):
            return self._retrying(fault or error, nix.NixUnavailable.code, RETRY_SECONDS)
        if isinstance(error, nix.FetchFailed) and error.fault.is_transient:
            return self._retrying(error, error.code, FETCH_RETRY_SECONDS)

        kind = error if error.code else nix.BuildFailed
        task_error = TaskError(kind.code, str(error), error.hint)
        if isinstance(error, nix.Refused):
            task_error = replace(task_error, reason=error.reason)
            self._found = Found(error.catalog, error.attr, error.spelled)
        self._say(f"failed: {task_error.code}")
        return lambda: self.lease.fail(task_error)

    def _retrying(
        self, error: nix.NixError, code: str, seconds: tuple[float, ...]
    ) -> Callable[[], None]:
        """Return the method that puts the task back for its next attempt, if it has one."""
        waits = dict(enumerate(seconds, start=1))
        wait = waits.get(self.lease.attempt)
        follows = f"failed: {code}" if wait is None else f"the next attempt follows in {wait} s"
        self._say(str(error))
        self._say(follows)
        task_error = TaskError(code, str(error), error.hint)
        return lambda: self.lease.retry(task_error, wait or 0)

    def _write_end(self, write: Callable[[], None]) -> None:
        """Write the rest of the log and the end in one transaction, once the database takes it."""
        while True:
            try:
                self._stage()
                write()
            except DATABASE_AWAY as error:
                self._give_up_or_wait(error)
                time.sleep(FLUSH_SECONDS)
            else:
                return

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
        if self._log or self.progress != self._shown or due:
            requested = self._stage()
            db.session.commit()
            self._found = None
            self._log_start += len(self._log)
            self._log.clear()
            self._shown = self.progress
            self._renewed_at = now
        else:
            requested = self.lease.is_cancel_requested()

        self._flushed_at = now
        return requested

    def _stage(self) -> bool:
        """Write a longer lease, the progress and a piece of log, without a commit."""
        # First of all, since it raises LeaseLost where the task is gone, with its log.
        requested = self.lease.renew(
            self.config["LEASE_SECONDS"],
            done=self.progress.done,
            expected=self.progress.expected,
            phase=self.progress.phase,
        )
        if self._found:
            self.lease.note(self._found)
        if self._log:
            seq, attempt = self.lease.seq, self.lease.attempt
            build_logs.append(seq, attempt, self._log_start, bytes(self._log))
        return requested

    def _give_up_or_wait(self, error: Exception) -> None:
        """Raise LeaseLost when the database has been down for nearly as long as the lease."""
        db.session.rollback()
        log.warning("task %s: database: %s", self.lease.task_id, cause(error))
        # Past its end another worker may take the task.
        if time.monotonic() - self._renewed_at > self.config["LEASE_SECONDS"] * 5 / 6:
            raise LeaseLost

    def _say(self, sentence: str) -> None:
        """Add a line of our own to the task's log and to the service's."""
        log.info("%s", sentence)
        self._log += nix.plain(f"pkgd: {sentence}\n").encode()

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
            self._say(f"the log is cut here, at its limit of {limit} bytes; the build goes on")
