"""Turns at writing to the file of SQLite: transactions that write wait in line for theirs.

SQLite lets one connection write at a time. One that finds another writing sleeps and tries again,
in steps that grow to 100 ms, while others that came later overtake it. So a transaction that is
about to write waits for its turn first: for a lock of its process and then for two on files that
all processes share.

Turns bring order, and nothing else depends on them: that only one connection writes is SQLite's to
see to, also where a turn can't be had, and against programs that know nothing of turns.
"""

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ExceptionContext, event

import models
from file_lock import try_lock

log = logging.getLogger("pkgd.database")

# With what a statement begins that has Python's sqlite3 begin a transaction, or does so itself.
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "BEGIN IMMEDIATE")
SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.02


class FairLock:
    """A lock for the threads of a process that serves them in the order in which they came.

    Python's own lets a thread that comes later overtake those that wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()  # the first has the lock

    def acquire(self, seconds: float) -> bool:
        """Wait for the lock; return False where that takes longer."""
        me, is_mine = object(), False
        with self._changed:
            self._waiting.append(me)
            try:
                is_mine = self._changed.wait_for(lambda: self._waiting[0] is me, seconds)
            finally:
                if not is_mine:
                    self._waiting.remove(me)
                    self._changed.notify_all()
        return is_mine

    def release(self) -> None:
        """Let the next one have the lock."""
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()


class WriteLock:
    """The turns at writing to one file; there are none for PostgreSQL.

    A connection has its turn from its first statement that writes until it is back in the pool.
    """

    def __init__(self, file: Path | None) -> None:
        """Name the file of the database: the files of the locks are beside it."""
        self._path = file
        self._lock = FairLock()
        self._holder: object = None
        self._turn: int | None = None
        self._is_fault_told = False

    def watch(self, engine: Engine) -> None:
        """Have the connections of an engine wait for their turns."""
        if self._path:
            # Events of the dialect: one of the engine, such as before_cursor_execute, would add an
            # eighth to the cost of GET package, which never writes.
            event.listen(engine, "do_execute", self._take)
            event.listen(engine, "do_executemany", self._take)
            event.listen(engine, "handle_error", self._end_failed)
            event.listen(engine, "checkin", self._end)
            event.listen(engine, "close", self._end)

    def _take(self, cursor: Any, statement: str, *_: object) -> None:
        """Wait for the turn, if the statement begins a transaction that writes.

        Raises OperationalError past LOCK_SECONDS, as sqlite3 does.
        """
        connection = cursor.connection
        if (
            not statement.startswith(WRITES)
            or connection.in_transaction
            or connection is self._holder
        ):
            return

        deadline = time.monotonic() + models.LOCK_SECONDS
        if not self._lock.acquire(models.LOCK_SECONDS):
            raise _locked()
        try:
            self._turn = self._lock_files(deadline)
            self._holder = connection
        finally:
            if self._holder is None:
                self._lock.release()

    def _lock_files(self, deadline: float) -> int | None:
        """Wait for the turn of this process; return the open file that keeps it, if there is one.

        Whoever has the first lock is next, and has it until it has the second. So a process in
        which many threads write can't take one turn after another while others wait.
        """
        try:
            is_next = self._lock_file("next", deadline)
            try:
                return self._lock_file("turn", deadline)
            finally:
                os.close(is_next)
        except OSError as error:
            if not self._is_fault_told:
                self._is_fault_told = True
                log.warning("writers don't wait in line with other processes: %s", error)
            return None

    def _lock_file(self, name: str, deadline: float) -> int:
        """Open and lock one of the files, once nobody else has it locked."""
        # Opened each time: a file that is open across a fork would share its lock with the child.
        descriptor = os.open(f"{self._path}-{name}", os.O_RDWR | os.O_CREAT, 0o600)
        began = time.monotonic()
        with ExitStack() as on_exception:
            on_exception.callback(os.close, descriptor)
            _give_to_owner(descriptor, str(self._path))
            while not try_lock(descriptor):
                now = time.monotonic()
                if now >= deadline:
                    raise _locked()
                time.sleep(min(max((now - began) / 10, SHORTEST_PAUSE), LONGEST_PAUSE))
            on_exception.pop_all()
        return descriptor

    def _end_failed(self, context: ExceptionContext) -> None:
        """End the turn of a connection whose transaction did not begin, or is gone."""
        execution = context.execution_context
        if execution is not None and not execution.cursor.connection.in_transaction:
            self._end(execution.cursor.connection)

    def _end(self, connection: object, _record: object = None) -> None:
        """End a connection's turn, if it has it."""
        if self._holder is None or connection is not self._holder:
            return
        turn, self._turn, self._holder = self._turn, None, None
        if turn is not None:
            os.close(turn)
        self._lock.release()


def _give_to_owner(descriptor: int, database: str) -> None:
    """Let the owner of the database have a file that root made, as SQLite does with its own."""
    with suppress(FileNotFoundError, PermissionError):  # only root may give files away
        owner = os.stat(database)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _locked() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("database is locked")
