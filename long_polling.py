"""Long polling: requests that wait for something to happen, how many at once, and for how long.

None holds a transaction or a connection of the database meanwhile, and each ends when its client
has gone or the service stops.
"""

import threading
import time
from collections.abc import Callable
from socket import MSG_DONTWAIT, MSG_PEEK, socket
from typing import TypeVar

from flask import request

import services
from database import end_reading
from models import db
from worker import Pool

POLL_SECONDS = 0.1
MIN_POLL_SECONDS = 0.005
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
        while not is_over(found := look()):
            waited = time.monotonic() - began
            # Poll every 10 % of the time waited so far: what is short answers fast, what is long
            # costs little.
            if waited >= seconds or pause(POLL_SHARE * waited):
                break
        return found
    finally:
        slots.release()


def pause(seconds: float = POLL_SECONDS) -> bool:
    """Wait a moment; return True when the service stops or the client has gone."""
    db.session.rollback()
    end_reading()
    bounded = min(max(seconds, MIN_POLL_SECONDS), POLL_SECONDS)
    is_stopping = services.get(Pool).stopping.wait(bounded)
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
