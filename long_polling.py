"""Long polling: requests that wait for something to happen, how many at once, and for how long.

None holds a transaction or a connection of the database meanwhile, and each ends when its client
has gone or the service stops. A change by this process wakes it; those of others it finds by
looking again.
"""

import threading
import time
from collections.abc import Callable
from socket import MSG_DONTWAIT, MSG_PEEK, socket
from typing import TypeVar

from flask import request

import services
from database import end_reading
from last_writes import committed
from models import db
from worker import Pool

POLL_SECONDS = 0.1
MIN_POLL_SECONDS = 0.02
POLL_SHARE = 0.1

T = TypeVar("T")


class FollowerSlots(threading.BoundedSemaphore):
    """How many requests of this process may wait or follow a log at once."""


def wait_until(is_over: Callable[[T], bool], look: Callable[[], T], seconds: float) -> T | None:
    """Return what `look` returns once that is over, at the latest after `seconds`.

    Return None where too many requests wait already.
    """
    slots = services.get(FollowerSlots)
    if not slots.acquire(blocking=False):
        return None
    try:
        began = time.monotonic()
        seen = committed.number
        while not is_over(found := look()):
            waited = time.monotonic() - began
            # Poll every 10 % of the time waited so far: what is short answers fast, what is long
            # costs little.
            if waited >= seconds or pause(POLL_SHARE * waited, seen):
                break
            seen = committed.number
        return found
    finally:
        slots.release()


def pause(seconds: float = POLL_SECONDS, seen: int | None = None) -> bool:
    """Wait a moment, or until this process has committed more than was `seen`.

    Return True when the service stops or the client has gone.
    """
    db.session.rollback()
    end_reading()
    bounded = min(max(seconds, MIN_POLL_SECONDS), POLL_SECONDS)
    committed.wait(committed.number if seen is None else seen, bounded)
    is_stopping = services.get(Pool).stopping.is_set()
    return is_stopping or _has_gone(request.environ.get("gunicorn.socket"))


def _has_gone(client: socket | None) -> bool:
    """Tell whether the client has closed the connection, so that its thread can serve others."""
    if client is None:
        return False
    try:
        return client.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
