"""The worker pool: threads that take tasks from the queue and have Nix carry them out."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, g

import holders
import leases
import nix
import reconciliation
import retention
import services
from attempts import Attempt
from holders import Holder
from models import DATABASE_AWAY

log = logging.getLogger("pkgd.worker")

POLL_SECONDS = 0.8
KEEP_SECONDS = 1.0
PRUNE_SECONDS = 3600
STOP_SECONDS = 20


class Pool:
    """The worker threads of one process, and a keeper that returns lost tasks to the queue."""

    def __init__(self, app: Flask) -> None:
        """Prepare a pool for `app`; nothing runs before `start`."""
        self.app = app
        self.stopping = threading.Event()
        self._queued = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._holder: Holder | None = None
        self._settled = False
        self._prune_at = 0.0

    @property
    def size(self) -> int:
        """How many tasks this process runs at once; 0 when it only serves."""
        size: int = self.app.config["WORKER_THREADS"]
        return size

    @property
    def is_running(self) -> bool:
        """Tell whether every thread that there should be is alive, and the start is over."""
        if self.size == 0:
            return True
        alive = sum(thread.is_alive() for thread in self._threads)
        return alive == self.size + 1 and self._settled

    def start(self) -> None:
        """Start the threads; only ever after a fork."""
        if self.size == 0:
            return
        self._holder = Holder(self._holders)
        self._threads = [self._thread("keeper", self.keep_once, self._rest)]
        self._threads += [
            self._thread(f"worker-{number}", self.run_one, self._idle)
            for number in range(1, self.size + 1)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Put running tasks back in the queue, end their builds, and wait for the threads."""
        self.stopping.set()
        for _ in self._threads:
            self._queued.release()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._holder is not None:
            self._holder.release()

    def wake(self) -> None:
        """Have an idle thread look at the queue now."""
        self._queued.release()

    def run(self, step: Callable[[], bool], pause: Callable[[], object]) -> None:
        """Take one step after another until the pool stops; pause when there was nothing to do."""
        while not self.stopping.is_set():
            try:
                worked = step()
            except (*DATABASE_AWAY, nix.NixError) as error:
                log.warning("put off: %s", getattr(error, "orig", error))
                worked = False
            # The one broad except: a fault of ours must not end the thread. A task's lease runs
            # out, which requeues it, so there is no second way to deal with a failure here.
            except Exception:
                log.exception("a step failed; what it left undone is done by a later one")
                worked = False
            if not worked:
                pause()

    def run_one(self) -> bool:
        """Take one task and see it through; tell whether there was one."""
        with self.app.app_context():
            if self.obstacle() is not None:
                return False
            lease = leases.claim(self.holder_id, self.app.config["LEASE_SECONDS"])
            if lease is None:
                return False
            g.task_id = lease.task_id
            Attempt(lease, self.app, self.stopping).run()
            return True

    def keep_once(self) -> bool:
        """Return lost tasks to the queue and say why tasks wait; at times, more."""
        with self.app.app_context():
            self.reap()
            self._sweep()
            leases.explain_wait(self.obstacle())
            if not self._settled:
                self._settle()
            if time.monotonic() >= self._prune_at:
                self._prune_at = time.monotonic() + PRUNE_SECONDS
                retention.prune(self.app.config["TASK_DAYS"])
        return False

    def _settle(self) -> None:
        """Set right, once after a start, what went wrong while nobody looked."""
        holders.bury(self._holders)
        for sentence in reconciliation.reconcile():
            log.warning("reconciliation: %s", sentence)
        self._settled = True

    def reap(self) -> None:
        """Requeue the tasks whose lease ran out, or whose holder is dead on this machine."""
        others = [holder for holder in leases.holders() if holder != self.holder_id]
        reaped = leases.reap(holders.dead(self._holders, others))
        if reaped:
            log.warning("took %d tasks back from workers that are gone", reaped)

    def _sweep(self) -> None:
        """End and remove what killed processes have left of tasks that won't run again."""
        left = {path.name: path for path in (self.app.config["DATA_DIR"] / "tmp").glob("*-*-*-*-*")}
        for task_id in left.keys() - leases.live(left):
            nix.sweep(left[task_id])

    def obstacle(self) -> str | None:
        """Return why no task should be taken at the moment; None when all is well."""
        try:
            nix.check(services.get(nix.Store, self.app))
        except nix.NixMissing as error:
            return str(error)
        needed = self.app.config["MIN_FREE_BYTES"]
        for folder in (self.app.config["DATA_DIR"], services.get(nix.Store, self.app).folder):
            if shutil.disk_usage(folder).free < needed:
                return f"{folder} has less than {needed} bytes free; tasks wait until it has more"
        return None

    def _thread(
        self, name: str, step: Callable[[], bool], pause: Callable[[], object]
    ) -> threading.Thread:
        return threading.Thread(target=self.run, args=(step, pause), name=name, daemon=True)

    def _rest(self) -> None:
        self.stopping.wait(KEEP_SECONDS)

    def _idle(self) -> None:
        self._queued.acquire(timeout=POLL_SECONDS)

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
