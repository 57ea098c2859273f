"""Reception: a connection gets a thread once its request has arrived, not before.

gunicorn's threaded worker gives a connection a thread at its first byte and reads the rest in
there, for as long as the client cares to take. Whoever sends slowly would hold all threads. Here
the main loop waits for the whole head and as much of the body as is announced, without a thread
and for a limited time.
"""

import re
import selectors
import socket
import time
from functools import partial
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.gthread import TConn, ThreadWorker

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
PEEK_BYTES = 160 * 1024
BODY_BYTES = 64 * 1024
ARRIVE_SECONDS = 10
STOP_SECONDS = 1
# of the one thread that peeks; to make as large a one for each look takes longer than the look
PEEKED = memoryview(bytearray(PEEK_BYTES))
YIELD_SECONDS = 0.0001
YIELD_MOST = 10


class QuietLogger(Logger):  # type: ignore[misc] # gunicorn ships no types
    """gunicorn's log without its access log, which it would put together even for nobody to see."""

    def access(self, *_: Any) -> None:
        """Say nothing: the service has a log of requests itself."""


class PatientWorker(ThreadWorker):  # type: ignore[misc] # gunicorn ships no types
    """A threaded worker that no slow client can hold up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin with nobody waiting."""
        super().__init__(*args, **kwargs)
        self.arriving: dict[TConn, float] = {}

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, but let a process that has fewer of them come first.

        All processes are woken for it. Whichever is awake already would get one after the other
        and, as clients keep their connections, do all the work alone.
        """
        # gunicorn's count may fall below zero, by a connection that fails while it is closed
        time.sleep(YIELD_SECONDS * min(max(self.nr_conns, 0), YIELD_MOST))
        super().accept(listener)

    def enqueue_req(self, conn: TConn) -> None:
        """Hand the connection to a thread if its request is there; else wait for the rest."""
        if conn in self.arriving or self._await_rest(conn):
            return
        super().enqueue_req(conn)

    def murder_pending(self) -> None:
        """Close the connections whose request took too long to arrive, too."""
        super().murder_pending()
        late = time.monotonic() - (ARRIVE_SECONDS if self.alive else STOP_SECONDS)
        for conn in [conn for conn, since in self.arriving.items() if since < late]:
            self._leave(conn)
            self.nr_conns -= 1
            conn.close()

    def _await_rest(self, conn: TConn) -> bool:
        """Watch the connection if more has to come; tell whether that is so."""
        there = peek(conn.sock)
        if there is None or is_whole(there) or has_been_read(conn):
            return False
        self.arriving[conn] = time.monotonic()
        conn.sock.setblocking(False)
        expect_more(conn.sock, len(there))
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._more_came, conn))
        return True

    def _more_came(self, conn: TConn, _sock: socket.socket) -> None:
        there = peek(conn.sock)
        if there is not None and not is_whole(there) and len(there) < PEEK_BYTES:
            expect_more(conn.sock, len(there))
            return
        self._leave(conn)
        conn.data_ready = True
        super().enqueue_req(conn)

    def _leave(self, conn: TConn) -> None:
        self.poller.unregister(conn.sock)
        del self.arriving[conn]
        expect_more(conn.sock, 0)


def has_been_read(conn: TConn) -> bool:
    """Tell whether a thread read the next request along with the one before (pipelining)."""
    return conn.parser is not None and bool(conn.parser.unreader.buf.getvalue())


def peek(sock: socket.socket) -> bytes | None:
    """Return what has arrived and not been read; None when the client has closed or gone."""
    try:
        size = sock.recv_into(PEEKED, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return bytes(PEEKED[:size]) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


def is_whole(there: bytes) -> bool:
    """Tell whether the head and the announced body, if it isn't too large anyway, are there."""
    head, end, body = there.partition(HEAD_END)
    if not end:
        return False
    length = LENGTH.search(head + b"\r\n")
    return length is None or len(body) >= min(int(length[1]), BODY_BYTES)


def expect_more(sock: socket.socket, than: int) -> None:
    """Have the poller report the socket only when it holds more than so many bytes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, than + 1)
