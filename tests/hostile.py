"""Requests that no client sends: hostile text in every place of an HTTP request, by a seed.

They go through a socket of their own each, since HTTP libraries refuse to send most of them.
"""

import json
import random
import re
import socket

TEXTS = [
    *("", "%00", "a%00b", "%FF", "%ED%A0%80", "%F4%90%80%80", "%D9%A1", "%EF%BC%91", "%C2%9B", "%"),
    *("..%2F..", "%2F", "//", "..", "%0D%0AX:%20y", "%E2%80%AE", "'", '"', "<x>", "{", "%7B%s%7D"),
    *("-1", "0", "1", "2", "3", "01", "1_0", "1e5", "NaN", "inf", "true", "null", "9" * 30),
    *("9" * 3000, "a" * 3000, "%25n" * 50, "hello", "2.12.1", "created", "activated", "queued"),
    *("00000000-0000-0000-0000-000000000000", "{00000000000000000000000000000000}", "1e999"),
]
BYTES = [
    *(b"", b"\x00", b"\xff", b"\xc3\x28", b"\x80" * 40, b"\x1b[31m", b"\x7f", b"\t", b"a" * 4000),
    *(b"-1", b"0", b"1", b"9" * 40, b"9" * 3900, b"\xd9\xa1", b"1, 2", b"bytes=0-1,5-", b'W/"x"'),
    *(
        b"text/plain",
        b"application/json; charset=nope",
        b"multipart/form-data",
        b"a/b; x*=nope''%ff",
    ),
    *(b"chunked", b"gzip", b"identity", b"100-continue", b"close", b"upgrade", b"[::1", b"a:b:c"),
    *(
        b"Basic \xff",
        b"Basic !!",
        b"Basic bm8=",
        b"Digest a*=\xff",
        b"Bearer",
        b"Token \x80",
        b"=,;",
    ),
]
METHODS = [
    *(b"GET POST DELETE HEAD OPTIONS PUT PATCH TRACE CONNECT".split()),
    b"get",
    b"FOO",
    b"\xff",
]
HEADERS = [
    *(b"Accept Accept-Encoding Authorization Connection Content-Encoding Content-Length".split()),
    *(b"Content-Type Cookie Date Expect Forwarded Host If-Match If-Modified-Since".split()),
    *(b"If-None-Match Origin Range Referer SCRIPT_NAME Transfer-Encoding Upgrade".split()),
    *(b"User-Agent X-Forwarded-For X-Forwarded-Proto X-HTTP-Method-Override X-Request-ID".split()),
]
ROUTES = [
    *("GET /hello", "GET /livez", "GET /readyz", "GET /metrics", "GET /openapi.json", "GET /docs"),
    *(
        "GET /docs/assets/{}",
        "GET /api/v1/version",
        "GET /api/v1/packages",
        "POST /api/v1/packages",
    ),
    *("GET /api/v1/package/{}", "DELETE /api/v1/package/{}", "POST /api/v1/package/{}/download"),
    *("POST /api/v1/package/{}/activate", "POST /api/v1/package/{}/deactivate"),
    *("GET /api/v1/tasks", "GET /api/v1/task/{}", "GET /api/v1/task/{}/log"),
    *("POST /api/v1/task/{}/cancel", "GET /api/v1/catalog/{}", "GET /api/v1/generations"),
    "POST /api/v1/packages/activate",
    *("GET /api/v1/profiles", "GET /api/v1/profile/{}", "PUT /api/v1/profile/{}"),
    *("DELETE /api/v1/profile/{}", "POST /api/v1/profile/{}/promote"),
    *("PUT /api/v1/profile/{}/rollout", "GET /api/v1/machines", "GET /api/v1/machine/{}"),
    *("PUT /api/v1/machine/{}", "DELETE /api/v1/machine/{}"),
    *("POST /api/v1/generation/{}/activate", "POST /api/v1/generations/rollback"),
    *("GET /api/v1/tokens", "POST /api/v1/tokens", "DELETE /api/v1/token/{}", "GET /{}", "GET {}"),
]
PARAMETERS = [
    *("limit", "after", "name", "status", "package_id", "wait", "attempt", "offset", "follow"),
    *("dry_run", "force", "version", "profile", "kind", "%00", ""),
    *("machine", "state", "require"),
]
FIELDS = [
    *("name", "version", "scope", "expires_in", "ids", "packages", "from", "\x00", "\ud800", ""),
    *("profile", "generation", "store_path", "state", "error", "percent"),
]
# The only admin's token may not go: the requests after it would all end at the gate.
OWN_TOKEN = re.compile(rb"DELETE [^ ]*/token(/0*1\b|s/all)|force=true")


class Requests:
    """An endless series of requests that a seed decides."""

    def __init__(self, seed, secret):
        self.choose = random.Random(seed)
        self.secret = secret

    def __iter__(self):
        return self

    def __next__(self):
        """Return one request as bytes, which may be no HTTP at all."""
        while OWN_TOKEN.search(request := self._request()):
            pass
        return request

    def _request(self):
        method, _, path = self.choose.choice(ROUTES).partition(" ")
        method = self._or(0.1, method.encode(), METHODS)
        version = self._or(0.02, b"HTTP/1.1", [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/\xff", b"", b"x"])
        body = self._body() if self._is(0.4) else b""
        line = b" ".join([method, self._target(path), version])
        request = b"\r\n".join([line, *self._headers(body), b"", body])
        return self._garbled(request) if self._is(0.05) else request

    def _target(self, path):
        text = path.replace("{}", self.choose.choice(TEXTS))
        names = self.choose.choices(PARAMETERS, k=self.choose.choice([0, 0, 1, 2]))
        query = "&".join(f"{name}={self.choose.choice(TEXTS)}" for name in names)
        text = f"{text}?{query}" if query else text
        prefix = self._or(0.02, "", ["http://", "http://[::1", "http://a:b@c", "*", "//", "\\"])
        return (prefix + text)[:4000].encode()

    def _headers(self, body):
        address = ".".join(str(self.choose.randrange(256)) for _ in range(4)).encode()
        yield b"Host: " + self._or(0.02, b"localhost", BYTES)
        yield b"X-Forwarded-For: " + self._or(0.02, address, BYTES)
        if self._is(0.9):
            yield b"Authorization: Token " + self.secret.encode()
        if body or self._is(0.1):
            yield b"Content-Type: " + self._or(0.05, b"application/json", BYTES)
            yield b"Content-Length: " + self._or(0.03, str(len(body)).encode(), BYTES)
        if self._is(0.3):
            yield self.choose.choice(HEADERS) + b": " + self.choose.choice(BYTES)
        yield b"Connection: close"

    def _body(self):
        depth = self.choose.choice([10, 900, 1000, 5000, 30_000])
        nested = self.choose.choice([b"[", b'{"a":', b'[{"name":'])
        return self.choose.choice(
            [
                (nested * depth)[:60_000],
                b"[" * depth + b"]" * depth,
                b'{"name":' + b"[" * (depth // 2) + b"]" * (depth // 2) + b"}",
                b'{"expires_in":' + b"9" * depth + b"}",
                self.choose.randbytes(self.choose.randrange(200)),
                self.choose.choice(BYTES),
                *(self._document() for _ in range(6)),
            ]
        )

    def _document(self):
        names = self.choose.sample(FIELDS, self.choose.randrange(4))
        text = json.dumps({name: self._value() for name in names})
        return text.encode(self._or(0.05, "utf-8", ["utf-16", "utf-32", "utf-8-sig"]))

    def _value(self):
        plain = [None, True, 0, -1, 60, 3.0, 1e308, float("inf"), 2**64, 10**300, [], {}, [{}]]
        texts = [
            "",
            "hello",
            "2.12.1",
            "1.0.0",
            "read",
            "\x00",
            "a\x1bb",
            "\ud800",
            "\u202e",
            "n" * 200,
        ]
        return self.choose.choice(
            [*plain, *texts, "1.0.0-" + "1" * 5000, f"x{self.choose.random()}"]
        )

    def _garbled(self, request):
        at = self.choose.randrange(len(request))
        return request[:at] + self.choose.randbytes(3) + request[at + self.choose.randrange(3) :]

    def _is(self, share):
        return self.choose.random() < share

    def _or(self, share, usual, others):
        return self.choose.choice(others) if self._is(share) else usual


def status_of(port, request, seconds=30):
    """Send a request; return its answer's status, or None when the connection ends without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            start = connection.makefile("rb").readline()
        except ConnectionError:
            return None  # refused before all of it was sent
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", start)
    return int(match[1]) if match else None
