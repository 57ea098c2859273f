"""The worker pool: threads that take tasks from the queue and have Nix carry them out."""

import logging
import shutil
import threading
import time
from pathlib import Path

from flask import Flask

import holders
import leases
import nix
from attempts import Attempt
from holders import Holder
from models import DATABASE_AWAY, Task

log = logging.getLogger("pkgd.worker")

POLL_SECONDS = 0.8
KEEP_SECONDS = 1.0
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

    @property
    def size(self) -> int:
        """How many tasks this process runs at once; 0 when it only serves."""
        size: int = self.app.config["WORKER_THREADS"]
        return size

    @property
    def is_running(self) -> bool:
        """Tell whether every thread that there should be is alive."""
        wanted = self.size + 1 if self.size else 0
        return sum(thread.is_alive() for thread in self._threads) == wanted

    def start(self) -> None:
        """Requeue what dead processes held, then start the threads; only ever after a fork."""
        if self.size == 0:
            return
        self._holder = Holder(self._holders)
        with self.app.app_context():
            self.reap()
            holders.bury(self._holders)
        targets = [(self.keep, "keeper")]
        targets += [(self.run, f"worker-{number}") for number in range(1, self.size + 1)]
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True) for target, name in targets
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

    def run(self) -> None:
        """Work off the queue until the pool stops."""
        while not self.stopping.is_set():
            try:
                worked = self.run_one()
            # The one broad except: a fault of ours must not end the thread. The task's lease runs
            # out, which requeues it, so there is no second way to deal with a failure here.
            except Exception:
                log.exception("a worker failed; its task runs again when its lease is over")
                worked = False
            if not worked:
                self._queued.acquire(timeout=POLL_SECONDS)

    def run_one(self) -> bool:
        """Take one task and see it through; tell whether there was one."""
        with self.app.app_context():
            if self.obstacle() is not None:
                return False
            lease = leases.claim(self.holder_id, self.app.config["LEASE_SECONDS"])
            if lease is None:
                return False
            Attempt(lease, self.app, self.stopping).run()
            return True

    def keep(self) -> None:
        """Return lost tasks to the queue and say why tasks wait, until the pool stops."""
        while not self.stopping.wait(KEEP_SECONDS):
            self.keep_once()

    def keep_once(self) -> None:
        """Look after the queue once; while the database is away there is nothing to look after."""
        with self.app.app_context():
            try:
                self.reap()
                Task.explain_wait(self.obstacle())
            except DATABASE_AWAY as error:
                log.warning("the queue can't be reached: %s", error)

    def reap(self) -> None:
        """Requeue the tasks whose lease ran out, or whose holder is dead on this machine."""
        others = [holder for holder in leases.holders() if holder != self.holder_id]
        reaped = leases.reap(holders.dead(self._holders, others))
        if reaped:
            log.warning("took %d tasks back from workers that are gone", reaped)

    def obstacle(self) -> str | None:
        """Return why no task should be taken at the moment; None when all is well."""
        try:
            nix.check(self.app.extensions["store"])
        except nix.NixMissing as error:
            return str(error)
        needed = self.app.config["MIN_FREE_BYTES"]
        for folder in (self.app.config["DATA_DIR"], self.app.extensions["store"].folder):
            free = shutil.disk_usage(folder).free
            if free < needed:
                return f"{folder} has {free} bytes free; tasks wait until there are {needed}"
        return None

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
