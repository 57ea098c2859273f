"""Bounding how long a block may take, whatever it waits for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_SECONDS = 1  # Python discards what is raised while a finalizer runs


@contextmanager
def bounded(seconds: float, error: Exception) -> Iterator[None]:
    """Raise an error in the `with` block, which the main thread runs, once it takes longer."""

    def ring(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
