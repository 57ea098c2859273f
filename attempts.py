"""One run of a task: it keeps the lease, the log and the progress while Nix works."""

import errno
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flask import Flask

import logs
import nix
import roots
import services
from catalogs import Catalogs
from leases import Failure, Lease, LeaseLost, Realised
from models import DATABASE_AWAY, db

log = logging.getLogger("pkgd.worker")

FLUSH_SECONDS = 0.4
FLUSH_BYTES = 256 * 1024


class Stopped(Exception):
    """The service stops: the task goes back to the queue."""


class Cancelled(Exception):
    """Somebody asked for the task to be stopped."""


class Attempt:
    """One run of a task under its lease."""

    def __init__(self, lease: Lease, app: Flask, stopping: threading.Event) -> None:
        """Prepare the run that `lease` is for; `stopping` ends it early."""
        self.lease = lease
        self.config = app.config
        self.store: nix.Store = services.get(nix.Store, app)
        self.catalogs: tuple[str, ...] = services.get(Catalogs, app).names
        self.stopping = stopping
        self.data_dir: Path = app.config["DATA_DIR"]
        # one for each attempt: who wakes up after losing the lease cleans up behind itself alone
        self.tmp = self.data_dir / "tmp" / str(lease.task_id) / str(lease.attempt)
        self.progress = nix.Progress(done=0, expected=0, phase="resolving")
        self._shown: nix.Progress | None = None
        self._log = bytearray()
        self._log_start = logs.end(lease.seq, lease.attempt)
        self._log_full = False
        self._flushed_at = self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Carry the task out, and write how it ended."""
        try:
            self._settle(self._outcome())
        except LeaseLost:
            db.session.rollback()
            log.warning("task %s: its lease is gone, nothing more is written", self.lease.task_id)
        finally:
            with suppress(OSError):  # unless another attempt works in it
                self.tmp.parent.rmdir()

    def realise(self) -> Realised:
        """Resolve the package, build or fetch it, and root it."""
        found = self._resolve()
        try:
            paths = self._realise_outputs(found)
        except nix.BuildFailed:
            if nix.valid_paths(self.store, [found.drv_path]):
                raise
            # no root holds a derivation: a garbage collection may take it before the build begins
            found = self._resolve()
            paths = self._realise_outputs(found)

        self.progress = nix.Progress(self.progress.done, self.progress.expected, "rooting")
        size = nix.closure_size(self.store, paths)
        self._say(f"downloaded {paths[0]}, {size} bytes with all that it needs")
        return Realised(
            catalog=found.catalog,
            attr=found.attr,
            drv_path=found.drv_path,
            store_paths=paths,
            closure_size=size,
        )

    def tick(self, text: bytes, progress: nix.Progress) -> None:
        """Take in new log and progress; raise whatever is to stop the run."""
        self._take(text)
        self.progress = progress
        if self.stopping.is_set():
            raise Stopped
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS or len(self._log) >= FLUSH_BYTES:
            self._flush_or_bear()

    def _resolve(self) -> nix.Resolution:
        name, version = self.lease.name, self.lease.version
        self._say(f"attempt {self.lease.attempt}: resolving {name} {version}")
        found = nix.resolve(self.store, self.catalogs, name, version, tick=self.tick, tmp=self.tmp)
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
            root=roots.link(self.data_dir, self.lease.package_id, number),
            builders=self.config["BUILDERS"],
            build_seconds=self.config["BUILD_SECONDS"],
            silence_seconds=self.config["SILENCE_SECONDS"],
            tick=self.tick,
            tmp=self.tmp,
        )

    def _outcome(self) -> Callable[[], None]:
        """Run, and return the write that tells how it ended."""
        lease = self.lease
        try:
            if lease.attempt > 1 or self.tmp.parent.exists():
                nix.sweep(self.tmp.parent)  # what killed attempts have left
            realised = self.realise()
        except Stopped:
            self._say("the service stops; the task goes back to the queue")
            return lease.requeue
        except Cancelled:
            self._say("cancelled")
            return lease.cancel
        except nix.NixMissing:
            return lease.requeue
        except nix.NixCrashed as error:
            self._say(str(error))
            return lease.retry
        except nix.NixError as error:
            return self._failing(error)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return self._failing(nix.DiskFull(str(error)))
        return lambda: lease.succeed(realised)

    def _failing(self, error: nix.NixError) -> Callable[[], None]:
        """Return the write that says why the task failed."""
        failure = Failure(error.code or nix.BuildFailed.code, str(error), error.hint)
        self._say(f"failed: {failure.code}")
        return lambda: self.lease.fail(failure)

    def _settle(self, write: Callable[[], None]) -> None:
        """Write the rest of the log and the end at once, as soon as the database takes them."""
        while True:
            try:
                self._stage()
                write()
            except DATABASE_AWAY as error:
                self._bear(error)
                time.sleep(FLUSH_SECONDS)
            else:
                return

    def _flush_or_bear(self) -> None:
        """Flush; a database that is away for less than the lease is waited for."""
        try:
            if self._flush():
                raise Cancelled
        except DATABASE_AWAY as error:
            self._bear(error)
            self._flushed_at = time.monotonic()

    def _flush(self) -> bool:
        """Write what is new and keep the lease; tell whether a cancel was requested."""
        now = time.monotonic()
        due = now - self._renewed_at >= self.config["LEASE_SECONDS"] / 3
        if self._log or self.progress != self._shown or due:
            requested = self._stage()
            db.session.commit()
            self._log_start += len(self._log)
            self._log.clear()
            self._shown = self.progress
            self._renewed_at = now
        else:
            requested = self.lease.is_cancel_requested()
        self._flushed_at = now
        return requested

    def _stage(self) -> bool:
        """Write a piece of log, the progress and a longer lease, for a commit of all or nothing."""
        if self._log:
            self.lease.append_log(self._log_start, bytes(self._log))
        return self.lease.renew(
            self.config["LEASE_SECONDS"],
            done=self.progress.done,
            expected=self.progress.expected,
            phase=self.progress.phase,
        )

    def _bear(self, error: Exception) -> None:
        """Put up with a database that is away, but not past the time others may take the task."""
        db.session.rollback()
        log.warning("task %s: database: %s", self.lease.task_id, getattr(error, "orig", error))
        if time.monotonic() - self._renewed_at > self.config["LEASE_SECONDS"] * 5 / 6:
            raise LeaseLost

    def _say(self, sentence: str) -> None:
        """Add a line of our own to the task's log, and to the service's."""
        log.info("%s", sentence)
        self._log += f"pkgd: {sentence}\n".encode()

    def _take(self, text: bytes) -> None:
        """Add build log, up to the limit: there the log is cut, while the build goes on."""
        limit = self.config["LOG_BYTES"]
        room = max(0, limit - self._log_start - len(self._log))
        if len(text) <= room:
            self._log += text
        elif not self._log_full:
            self._log_full = True
            whole_lines = text[: text.rfind(b"\n", 0, room) + 1]
            self._log += whole_lines
            self._say(f"the log is cut here, at its limit of {limit} bytes; the build goes on")
