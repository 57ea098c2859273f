"""Failed authentications, slowed per address; a live token is never held up by others' failures."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from problems import Problem

FAILURES = RateLimitItemPerMinute(60)


class Throttle:
    """Counts failures by address, in this process."""

    def __init__(self) -> None:
        """Begin with no failure."""
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def note_failure(self, address: str) -> None:
        """Count a failure; raise a 429 Problem when the address has had too many of them."""
        if self._limiter.hit(FAILURES, address):
            return
        reset_at = self._limiter.get_window_stats(FAILURES, address).reset_time
        raise Problem(
            429,
            "too many requests without a live token came from this address",
            kind="too-many-failures",
            retry_after=max(1, math.ceil(reset_at - time.time())),
        )
