"""Whether Nix can be used at the moment."""

import threading
import time

from nix.errors import NixError, NixMissing
from nix.store import Store, check

FRESH_SECONDS = 3


class Availability:
    """Asks a store whether it answers, and remembers what it said for FRESH_SECONDS."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fault: NixError | None = None
        self._stale_at = 0.0

    def fault(self, store: Store) -> NixError | None:
        """Return why Nix can't be used, NixMissing or NixUnavailable; None when it can."""
        with self._lock:
            is_stale = time.monotonic() >= self._stale_at
            if is_stale or isinstance(self._fault, NixMissing):  # which takes no time to ask
                self._fault = _ask(store)
                self._stale_at = time.monotonic() + FRESH_SECONDS
            return self._fault

    def fault_now(self, store: Store) -> NixError | None:
        """Return the same, without remembering what was said before."""
        with self._lock:
            self._stale_at = 0.0
        return self.fault(store)


def _ask(store: Store) -> NixError | None:
    try:
        check(store)
    except NixError as error:
        return error
    return None
