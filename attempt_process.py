"""Attempts in a process of their own: work on catalogs, beside which requests are served.

Only one thread of a process runs Python at a time, so that requests would wait for the work. The
process writes to the task all that an attempt writes, under the lease that it is handed. It ends
with the service, and when the service is killed.

Its evaluations have the lowest priority, and it has the service's: it holds SQLite's lock while it
writes, and requests would wait for it to be given the processor. While all processors of a host
were busy, they did so for 0.2 to 0.6 s at worst, in place of 0.05.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import metrics_folder
import nix
from attempts import RETRY_SECONDS, Stopped
from config import HERE
from leases import Lease, LeaseLost
from models import DATABASE_AWAY, db
from task_ends import TaskError

log = logging.getLogger("pkgd.worker")

PROGRAM = HERE / "run_attempt.py"
END_SECONDS = 15  # until it is killed: less than the pool waits for its threads
LOOK_SECONDS = 5  # between looks whether the task is still this attempt's
LOST = "lost"
HINT = "out of memory is likely: add memory, or lower INDEX_BYTES; then flask catalog index NAME"


def run(lease: Lease, settings: Mapping[str, str], stopping: threading.Event) -> None:
    """See an attempt through in a process of its own, with these settings.

    Where it was killed before it could write how it ended, the task is tried again; where it can't
    start, that costs no attempt. The event `stopping` ends it early, and so does the loss of the
    lease: a process that hangs renews it no longer.
    """
    try:
        code = _run(lease, settings, stopping)
    except Stopped:
        with suppress(LeaseLost):  # the process has put it back itself
            lease.requeue()
    except LeaseLost:
        pass  # or the process has just ended the task
    except nix.NixCrashed as error:
        _try_again(lease, error)
    except (nix.NixMissing, nix.NixUnavailable) as error:
        _wait(lease, str(error))
    else:
        if code:
            _wait(lease, f"exit code {code}, and the service's log says why")


def _run(lease: Lease, settings: Mapping[str, str], stopping: threading.Event) -> int:
    """Run the process to its end; return its exit code.

    Raises Stopped, LeaseLost, NixCrashed where a signal ended it, NixMissing or NixUnavailable
    where it can't start.
    """
    looked_at = time.monotonic()

    def go_on(_: Sequence[bytes]) -> None:
        nonlocal looked_at
        if stopping.is_set():
            raise Stopped
        if time.monotonic() >= looked_at + LOOK_SECONDS:
            looked_at = time.monotonic()
            _check(lease)

    environ = {**os.environ, **settings}
    # It answers no requests, and would leave files in that folder.
    environ.pop(metrics_folder.SHARED, None)
    done = nix.run(
        [sys.executable, str(PROGRAM), str(lease.seq), str(lease.attempt), lease.holder],
        environ=environ,
        seconds=math.inf,
        grace_seconds=END_SECONDS,
        heard=go_on,
        is_captured=False,
    )
    return done.code


def _check(lease: Lease) -> None:
    """Raise LeaseLost where the lease is gone, as far as the database can be asked."""
    try:
        lease.is_cancel_requested()
    except DATABASE_AWAY:
        db.session.rollback()


def _try_again(lease: Lease, error: nix.NixCrashed) -> None:
    """Put the task of a process that was ended back for its next attempt, if it has one."""
    message = f"the process of attempt {lease.attempt}: {error}"
    _warn(lease, message)
    seconds = dict(enumerate(RETRY_SECONDS, start=1)).get(lease.attempt, 0)
    with suppress(LeaseLost):  # its end was written before
        lease.retry(TaskError(LOST, message, HINT), seconds)


def _wait(lease: Lease, reason: str) -> None:
    """Put the task of a process that can't start back for a while."""
    message = f"the process for this task can't start: {reason}"
    _warn(lease, message)
    with suppress(LeaseLost):
        lease.wait(message)


def _warn(lease: Lease, message: str) -> None:
    log.warning("%s: %s", lease.subject.label, message, extra=lease.subject.facts)
