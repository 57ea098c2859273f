"""The worker pool: threads that take tasks from the queue, and the holders of leases."""

import fcntl
import logging
import math
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from flask import Flask, g

import attempt_process
import database
import drain
import event_log
import leases
import maintenance
import nix
import services
import session_models
import task_queue
from attempts import Attempt, Work
from cache import publishing
from cache.access import CacheAccess
from catalogs import indexes, verifying
from catalogs.indexing import index
from catalogs.state import Catalogs
from downloads import download
from errors import Busy
from leases import Lease
from machines import events as machine_events
from models import DATABASE_AWAY, cause
from nix import trees
from profiles.applies import apply
from read_cache import close_connections, since_last_write
from task_subjects import Unpublished, Unverified, Wanted, WantedSet
from wakeups import WakeupPipe, wake_others
from webhooks import deliveries

log = logging.getLogger("pkgd.worker")

POLL_SECONDS = 0.8
# The folders of tasks are named by UUIDs, all in the form 8-4-4-4-12.
TASK_FOLDER = re.compile("-".join(f"[0-9a-f]{{{length}}}" for length in (8, 4, 4, 4, 12)))
MAINTAIN_SECONDS = 1.0
PRUNE_SECONDS = 3600
INDEX_SECONDS = 10.0
SILENCE_SECONDS = 10.0
SETTLE_WAIT_SECONDS = 1.0
SETTLE_AGAIN_SECONDS = 3.0
STOP_SECONDS = 20
# More than one for each process, so that a receiver that is slow to answer holds up few others.
SENDERS = 2
TELL_AGAIN_SECONDS = 60


class Holder:
    """The identity under which one pool holds leases: a file, locked while its process lives.

    The kernel drops the lock however the process ends. So all who share the folder can tell at once
    that a holder is dead, across containers and reboots, where process ids would mean nothing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id = str(uuid.uuid4())
        self._path = folder / self.id
        # Lock before renaming, so that the name never exists unlocked.
        unnamed = folder / f".{self.id}"
        self._file: IO[bytes] = unnamed.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.rename(self._path)

    def release(self) -> None:
        """Give the identity up."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def dead_holders(folder: Path, ids: Iterable[str]) -> list[str]:
    """Return which of these holders are dead; one without a file may be on another host."""
    return [holder for holder in ids if _is_unlocked(folder / holder)]


def living_holders(folder: Path) -> list[str]:
    """Return the holders on all hosts that share the folder whose processes live."""
    return [path.name for path in _files_of_holders(folder) if not _is_unlocked(path)]


def remove_dead_holders(folder: Path) -> None:
    """Remove the files of dead holders, once they hold no task any more."""
    for path in _files_of_holders(folder):
        if _is_unlocked(path):
            path.unlink(missing_ok=True)


def _files_of_holders(folder: Path) -> list[Path]:
    return [path for path in trees.listed(folder) if not path.name.startswith(".")]


def _is_unlocked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except (FileNotFoundError, BlockingIOError):
        return False


class Pool:
    """The worker threads of one process, one for upkeep, and those that send to webhooks."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.stopping = threading.Event()
        self._queued = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._holder: Holder | None = None
        self._wakeups: WakeupPipe | None = None
        self._idle_threads = 0
        self._counting = threading.Lock()
        self._unsettled: str | None = "the first reconciliation is not done"
        self._settle_at = 0.0
        self._prune_at = 0.0
        self._index_at = 0.0
        self._silence_at = math.inf
        self._seen: dict[nix.Catalog, str] = {}
        self._schema_fault: str | None = None
        self._catalogs_apart = False

    @property
    def size(self) -> int:
        """How many tasks this process runs at once; 0 when it only serves, or READ_ONLY is set."""
        size: int = self.app.config["WORKER_THREADS"]
        return 0 if self.app.config["READ_ONLY"] else size

    def fault(self) -> str | None:
        """Return what is wrong: a thread that is dead, or no reconciliation since the start."""
        if self.size == 0:
            return None
        alive = sum(thread.is_alive() for thread in self._threads)
        if alive < self.size + 1 + SENDERS:
            return "a worker thread of this process is not running"
        return self._unsettled

    def begin(self) -> None:
        """Do the first round of upkeep, before the process forks others that serve.

        They share the memory that it takes, and don't reconcile again. What fails they try again.
        No connection and no identity stays open across the fork.
        """
        if self.size == 0:
            return
        # One round, by the loop of the thread that goes on with it, which deals with faults.
        self.run(self.maintain_once, self.stopping.set)
        self.stopping.clear()
        with self.app.app_context():
            with suppress(*DATABASE_AWAY):
                # Takes no task. What threads ask is compiled here, in memory that is shared.
                task_queue.claim("", 0, lambda: "other processes take the tasks")
                deliveries.is_any_behind()
            close_connections()
        if self._holder is not None:
            self._holder.release()
            self._holder = None

    def start(self, *, catalogs_apart: bool = False) -> None:
        """Start the threads, which do not survive a fork.

        With `catalogs_apart`, for a process that serves requests, the tasks that work on catalogs
        run in processes of their own.
        """
        self._catalogs_apart = catalogs_apart
        if self.size == 0:
            return
        self._holder = Holder(self._holders)
        with suppress(OSError):  # a file system without pipes: the threads look by themselves
            self._wakeups = WakeupPipe(self.app.config["DATA_DIR"])
        # Machines could not report while no service ran.
        self._silence_at = time.monotonic() + self.app.config["MACHINE_SILENT_SECONDS"]
        self._threads = [self._thread("maintenance", self.maintain_once, self._rest)]
        self._threads += [
            self._thread(f"worker-{number}", self.run_one, self._idle)
            for number in range(1, self.size + 1)
        ]
        self._threads += [
            self._thread(f"webhooks-{number}", self.deliver_one, self._rest_from_sending)
            for number in range(1, SENDERS + 1)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Put running tasks back in the queue, end their builds, and wait for the threads."""
        self.stopping.set()
        for _ in self._threads:
            self._queued.release()
        if self._wakeups is not None:
            self._wakeups.wake()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._wakeups is not None:
            self._wakeups.remove()
            self._wakeups = None
        if self._holder is not None:
            self._holder.release()

    def wake(self) -> None:
        """Have an idle thread look at the queue now, of another process where none is here."""
        self._queued.release()
        if not self._idle_threads:
            wake_others(self.app.config["DATA_DIR"], self._wakeups)

    def run(self, step: Callable[[], bool], pause: Callable[[], object]) -> None:
        """Take one step after another until the pool stops; pause when there was nothing to do.

        A fault that lasts is logged once a minute.
        """
        told, told_at = "", 0.0
        while not self.stopping.is_set():
            try:
                worked = step()
                told = ""
            except (*DATABASE_AWAY, nix.NixError, OSError) as error:
                reason, now = str(cause(error)), time.monotonic()
                if reason != told or now >= told_at + TELL_AGAIN_SECONDS:
                    log.warning("will retry: %s", reason)
                    told, told_at = reason, now
                worked = False
            # The one broad except: a fault of ours must not end the thread. A task's lease runs
            # out, which requeues it, so there is no second way to deal with a failure here.
            except Exception:
                log.exception("unexpected error; will retry")
                worked = False

            if not worked:
                pause()

    def run_one(self) -> bool:
        """Take one task and see it through; tell whether there was one."""
        with self.app.app_context():
            if self._schema_fault or not since_last_write(task_queue.is_any_queued):
                return False
            seconds = self.app.config["LEASE_SECONDS"]
            lease = task_queue.claim(self.holder_id, seconds, self.obstacle)
            if lease is None:
                return False
            if self.drained() is not None:  # since just now: flask drain may have seen no task run
                lease.requeue()
                return False
            self.carry_out(lease)
            return True

    def carry_out(self, lease: Lease) -> None:
        """See the attempt through that a lease is for, as who asked for its task."""
        g.task_id = lease.task_id
        event_log.act_for(lease.by, lease.request_id)
        if self._catalogs_apart and lease.kind in task_queue.ON_CATALOGS:
            attempt_process.run(lease, self.app.config["GIVEN"], self.stopping)
        else:
            Attempt(lease, self.app, self.stopping).run(_work(lease))

    def deliver_one(self) -> bool:
        """Tell a webhook of an event; tell whether there was one. A drained service does so, too.

        What the operator does while it is drained is told as well.
        """
        with self.app.app_context():
            if self._schema_fault or not since_last_write(deliveries.is_any_behind):
                return False
            return deliveries.deliver_next(self.holder_id, self.stopping)

    def maintain_once(self) -> bool:
        """Requeue lost tasks, explain waits, have generations published; reconcile after a start.

        Old tasks, old events and the dashboard's sessions of the past are deleted every hour.

        A database with the schema of another version is left to that one's workers.
        """
        with self.app.app_context():
            if self._has_other_schema():
                return False
            self.reap()
            self._sweep()
            if since_last_write(task_queue.is_any_queued):
                task_queue.explain_wait(self.obstacle)
            if self._unsettled and time.monotonic() >= self._settle_at:
                self._settle()
            if publishing.schedule():
                self.wake()
            if time.monotonic() >= self._prune_at:
                self._prune_at = time.monotonic() + PRUNE_SECONDS
                maintenance.prune(self.app.config["TASK_DAYS"])
                maintenance.prune_events(self.app.config["EVENT_DAYS"])
                session_models.delete_ended()
            if self.app.config["INDEX_BYTES"] and time.monotonic() >= self._index_at:
                self._index_at = time.monotonic() + INDEX_SECONDS
                self._keep_indexes()
            if time.monotonic() >= self._silence_at:
                self._silence_at = time.monotonic() + SILENCE_SECONDS
                machine_events.tell_silence()
            services.get(CacheAccess, self.app).dismiss_dead()
        return False

    def _has_other_schema(self) -> bool:
        """Tell whether the database was upgraded while this process runs, or is yet to be."""
        state = since_last_write(database.state)
        fault = state if database.OTHER in state else None
        if fault and fault != self._schema_fault:
            log.warning("no task is taken: %s", fault)
        self._schema_fault = fault
        return fault is not None

    def _settle(self) -> None:
        """Reconcile, once after a start, what has changed while no pool was running.

        Where that can't be done, the service goes on with the database as it was, but is not ready.
        """
        remove_dead_holders(self._holders)
        try:
            # A collection of garbage may take an hour, in which lost tasks must be requeued.
            sentences = maintenance.reconcile(seconds=SETTLE_WAIT_SECONDS)
        except (Busy, maintenance.TooMuchLost, nix.NixError) as error:
            self._settle_at = time.monotonic() + SETTLE_AGAIN_SECONDS
            reason = f"no reconciliation: {error}"
            if reason != self._unsettled:
                log.log(logging.INFO if isinstance(error, Busy) else logging.ERROR, "%s", reason)
            self._unsettled = reason
            return
        for sentence in sentences:
            log.warning("reconciliation: %s", sentence)
        self._unsettled = None

    def _keep_indexes(self) -> None:
        """Queue what is to be indexed and what to be verified; delete indexes of the past.

        One that has just changed may be about to change again, and is looked at once more before.
        """
        # Before anything is indexed: what is begun from now on is evaluated by this Nix.
        store, folder = services.get(nix.Store, self.app), self.app.config["DATA_DIR"]
        verifying.evaluated_alike_since(store, folder)
        states = services.get(Catalogs, self.app).states()
        seen, self._seen = self._seen, {each.catalog: each.signature for each in states}
        steady = [one for one in states if seen.get(one.catalog, one.signature) == one.signature]
        for catalog in indexes.schedule(steady):
            log.info("catalog %s will be indexed", catalog)
            self.wake()
        if self.app.config["INDEX_VERIFY"] and indexes.schedule_verifications(states):
            self.wake()
        indexes.prune(states)

    def reap(self) -> None:
        """Requeue the tasks whose lease ran out, or whose holder is dead on this machine."""
        if not since_last_write(_is_any_leased):
            return
        holders = {*leases.holders(), *deliveries.holders()}
        others = [holder for holder in holders if holder != self.holder_id]
        dead = dead_holders(self._holders, others)
        deliveries.reap(dead)
        reaped = leases.reap(dead)
        if reaped:
            log.warning("took %d tasks back from workers that are gone", reaped)

    def _sweep(self) -> None:
        """Remove what killed processes left of tasks that won't run again, and its processes."""
        folders = trees.listed(self.app.config["DATA_DIR"] / "tmp")
        left = {path.name: path for path in folders if TASK_FOLDER.fullmatch(path.name)}
        for task_id in left.keys() - task_queue.live(left):
            nix.sweep(left[task_id])

    def obstacle(self) -> str | None:
        """Return why no task can be taken at the moment; None when one can."""
        drained = self.drained()
        if drained is not None:
            return drained
        store = services.get(nix.Store, self.app)
        fault = services.get(nix.Availability, self.app).fault(store)
        if fault is not None:
            return str(fault)
        needed = self.app.config["MIN_FREE_BYTES"]
        for folder in (self.app.config["DATA_DIR"], store.folder):
            if shutil.disk_usage(folder).free < needed:
                return f"{folder} has less than {needed} bytes free; tasks wait until it has more"
        return None

    def drained(self) -> str | None:
        """Return that the operator drains the service; None where that is not so."""
        return drain.reason(self.app.config["DATA_DIR"])

    def _thread(
        self, name: str, step: Callable[[], bool], pause: Callable[[], object]
    ) -> threading.Thread:
        return threading.Thread(target=self.run, args=(step, pause), name=name, daemon=True)

    def _rest(self) -> None:
        """Rest from upkeep; meanwhile wake idle threads where another process asks for that."""
        wakeups = self._wakeups
        if wakeups is None:
            self.stopping.wait(MAINTAIN_SECONDS)
            return
        deadline = time.monotonic() + MAINTAIN_SECONDS
        while (left := deadline - time.monotonic()) > 0 and not self.stopping.is_set():
            if wakeups.wait(left):
                self._queued.release(max(1, self._idle_threads))

    def _rest_from_sending(self) -> None:
        self.stopping.wait(POLL_SECONDS)

    def _idle(self) -> None:
        with self._counting:
            self._idle_threads += 1
        self._queued.acquire(timeout=POLL_SECONDS)
        with self._counting:
            self._idle_threads -= 1

    @property
    def holder_id(self) -> str:
        """The name under which this pool holds leases."""
        if self._holder is None:
            self._holder = Holder(self._holders)
        return self._holder.id

    @property
    def _holders(self) -> Path:
        folder: Path = self.app.config["DATA_DIR"] / "holders"
        return folder


def _is_any_leased() -> bool:
    return leases.is_any() or deliveries.is_any_leased()


def _work(lease: Lease) -> Work:
    """Return what a task does."""
    subject = lease.subject
    if isinstance(subject, Wanted):
        return partial(download, wanted=subject)
    if isinstance(subject, WantedSet):
        return partial(apply, subject=subject)
    if isinstance(subject, Unpublished):
        return partial(publishing.publish_profile, subject=subject)
    if isinstance(subject, Unverified):
        return partial(verifying.verify, subject=subject)
    return partial(index, subject=subject)
