"""Posting to the URL of a webhook: to an address that is allowed, within bounds of time and size.

A name is resolved once for each attempt, and the connection goes to an address that was checked, so
that a name that is resolved anew leads nowhere else. Redirects are not followed, proxies of the
environment are not used, and certificates are verified against the name.
"""

import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import Event
from urllib.parse import urlsplit

import httpcore

import nix
from webhooks.addresses import PrivateAddresses, not_allowed
from webhooks.answers import Answer, NotDelivered, Stopped

SECONDS = 15  # for all of an attempt but the lookup of the name,
CONNECT_SECONDS = 5  # of these for one address, and for the handshake of TLS
SLICE_SECONDS = 0.5  # how often a stop of the service is looked for
ADDRESSES = 3  # of a name, how many are tried
ANSWER_BYTES = 64 * 1024
KEPT_BYTES = 1024
CHUNK_BYTES = 4096

FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


class Deadline:
    """When an attempt ends at the latest, whatever the receiver does."""

    def __init__(self, stopping: Event) -> None:
        self._at = time.monotonic() + SECONDS
        self._stopping = stopping

    def left(self, most: float = SECONDS) -> float:
        """Return how many seconds are left, `most` at most. Raises ReadTimeout, or Stopped."""
        if self._stopping.is_set():
            raise Stopped
        left = self._at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout(f"no whole answer within {SECONDS} s")
        return min(left, most)


class BoundedStream(httpcore.NetworkStream):
    """A connection whose reads and writes all end by one deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what comes next."""
        while True:
            left = self._deadline.left(SLICE_SECONDS)
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        for start in range(0, len(buffer), CHUNK_BYTES):
            self._stream.write(buffer[start : start + CHUNK_BYTES], self._deadline.left())

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Return the connection with TLS on it."""
        left = self._deadline.left(CONNECT_SECONDS)
        return BoundedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> object:
        """Return what httpcore asks about the connection."""
        return self._stream.get_extra_info(info)


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to the addresses of a host that are allowed, and to no others."""

    def __init__(self, private: PrivateAddresses, deadline: Deadline) -> None:
        self._private = private
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address that takes it."""
        failures: list[Exception] = []
        for address in self._allowed(host, port)[:ADDRESSES]:
            left = self._deadline.left(CONNECT_SECONDS)
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failures.append(error)
            else:
                return BoundedStream(stream, self._deadline)
        raise failures[0]

    def _allowed(self, host: str, port: int) -> Sequence[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {_words(error)}") from None
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        allowed = [one for one in addresses if self._private.allow(host, one)]
        if not allowed:
            raise httpcore.ConnectError(not_allowed(addresses[0]))
        return allowed


def post(
    url: str, body: bytes, headers: dict[str, str], private: PrivateAddresses, stopping: Event
) -> Answer:
    """Post the body, and return the answer. Raises NotDelivered, or Stopped."""
    context = ssl.create_default_context() if url.startswith("https:") else None
    backend = CheckedBackend(private, Deadline(stopping))
    # httpcore's own Host has no brackets around an IPv6 address.
    sent = {"Host": urlsplit(url).netloc, "Accept-Encoding": "identity", **headers}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=context, network_backend=backend) as connections,
            connections.stream("POST", url, headers=[*sent.items()], content=body) as response,
        ):
            text = _beginning(response)
            return Answer(response.status, text, _header(response, b"retry-after"))
    except FAILURES as error:
        raise NotDelivered(_words(error)) from None


def _beginning(response: httpcore.Response) -> str:
    """Read the answer to its end, and return its beginning. Raises NotDelivered past 64 KiB."""
    kept, size = b"", 0
    for chunk in response.iter_stream():
        kept += chunk[: KEPT_BYTES - len(kept)]
        size += len(chunk)
        if size > ANSWER_BYTES:
            long = f"the answer is longer than {ANSWER_BYTES // 1024} KiB"
            raise NotDelivered(long, response.status)
    encoding = _header(response, b"content-encoding")
    return f"({size} bytes of {nix.plain(encoding)})" if encoding else nix.decode(kept).strip()


def _header(response: httpcore.Response, name: bytes) -> str | None:
    values = (value for key, value in response.headers if key.lower() == name)
    found = next(values, None)
    return None if found is None else found.decode("latin-1")


def _words(error: Exception) -> str:
    """Return an error in a line of plain text."""
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(nix.plain(said).split())[:KEPT_BYTES]
