"""Slow clients: behind a proxy they hold nobody up; gunicorn alone recovers once they have gone."""

import json
import socket
import time
from contextlib import ExitStack, suppress

import pytest
from proxy import HOST, Caddy, Nginx, dial
from service import Service
from support import until

GET = f"GET %s HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
POST = f"POST /api/v1/packages HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
LIVEZ = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
ANSWER_SECONDS = 5  # far more than measured: other tests run at the same time
RECOVER_SECONDS = 10
BODY_BYTES = 64 * 1024

# How many clients there are, and what each of them sends.
SLOW = {
    "heads": (200, "POST /api/v1/pack"),
    "half a pipelined request": (40, GET % "/hello" + "GET /hel"),
    "answers never read": (40, GET % "/docs/assets/redoc.js"),
    "bodies never sent": (32, f"{POST}Authorization: Token TOKEN\r\nContent-Length: 99\r\n\r\n"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service with few threads; its token is in `service.secret`."""
    folder = tmp_path_factory.mktemp("slow") / "data"
    settings = {"DATA_DIR": folder, "STORE_DIR": store_dir, "MIN_FREE_BYTES": 1}
    with Service(settings | {"WEB_THREADS": 4, "WORKER_THREADS": 0}) as service:
        service.init_db()
        service.secret = service.start().sign_in()
        yield service
        service.stop()


@pytest.fixture(scope="module", params=[Nginx, Caddy])
def proxy(request, tmp_path_factory, service):
    """A proxy in front of the service."""
    with request.param(tmp_path_factory.mktemp("proxy"), service.port) as proxy:
        yield proxy


@pytest.fixture
def connect(service):
    """Return a function that connects to gunicorn itself."""
    with ExitStack() as opened:
        yield lambda timeout=30: opened.enter_context(dial(service.port, timeout))


def livez(connect):
    """Tell whether the service answers within ANSWER_SECONDS."""
    with suppress(OSError), connect(ANSWER_SECONDS) as client:
        client.sendall(LIVEZ)
        return client.recv(100).startswith(b"HTTP/1.1 200")
    return False


def open_slow(stack, connect, service, kind, count=None):
    """Open slow clients of a kind, for as long as the stack is open."""
    usual, beginning = SLOW[kind]
    for _ in range(count or usual):
        client = stack.enter_context(connect())
        client.sendall(beginning.replace("TOKEN", service.secret).encode())


@pytest.mark.parametrize("kind", SLOW)
def test_slow_clients_hold_nobody_up_behind_a_proxy(service, proxy, kind):
    with ExitStack() as stack:
        open_slow(stack, proxy.connect, service, kind)

        answered = []
        for _ in range(10):
            answered.append(livez(proxy.connect))
            time.sleep(0.2)  # spreads the questions over the time in which clients are slow

    assert answered == [True] * 10


@pytest.mark.parametrize("kind", SLOW)
def test_gunicorn_alone_recovers_once_slow_clients_have_gone(service, kind):
    with ExitStack() as stack:
        open_slow(stack, lambda: dial(service.port), service, kind)

    until(lambda: livez(lambda timeout: dial(service.port, timeout)), RECOVER_SECONDS)


@pytest.mark.parametrize("kind", ["heads", "half a pipelined request", "bodies never sent"])
def test_gunicorn_alone_closes_the_connection_of_a_client_that_stalls(service, connect, kind):
    client = connect()
    client.sendall(SLOW[kind][1].replace("TOKEN", service.secret).encode())

    with suppress(ConnectionResetError):
        while client.recv(65536):
            pass

    until(lambda: "a client stalled" in service.said() or "Traceback" in service.said())
    assert "Traceback" not in service.said()


def post(service, body, *, length=None):
    """Return a request that registers a package, with its body."""
    length = len(body) if length is None else length
    token = f"Authorization: Token {service.secret}\r\nConnection: close\r\n"
    return f"{POST}{token}Content-Length: {length}\r\n\r\n".encode() + body


def test_a_request_may_come_in_pieces(service, connect):
    request = post(service, json.dumps({"name": "hello", "version": "1.0.0"}).encode())
    client = connect()

    for byte in range(0, len(request), 40):
        client.sendall(request[byte : byte + 40])
        time.sleep(0.01)  # or the pieces would arrive as one

    assert client.recv(100).startswith(b"HTTP/1.1 201")


def test_requests_may_follow_one_another_without_waiting(connect):
    client = connect()
    client.sendall((GET % "/hello" + GET % "/hello").encode())

    answers = b""
    while answers.count(b"Welcome") < 2:
        answers += client.recv(1000)

    assert answers.count(b"HTTP/1.1 200") == 2


def test_a_client_that_leaves_early_is_forgotten(connect):
    client = connect()
    client.sendall(b"POST /api")
    client.shutdown(socket.SHUT_WR)

    assert client.recv(1) == b""
    assert livez(connect)


@pytest.mark.parametrize("size", [BODY_BYTES + 1, 1_000_000])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(service, connect, size):
    client = connect()
    client.sendall(post(service, b"x", length=size))

    assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("size", [BODY_BYTES + 1, 900_000])
def test_a_body_over_the_limit_is_refused_through_a_proxy(service, proxy, size):
    with proxy.connect() as client:
        client.sendall(post(service, b"x" * size))

        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_of_just_the_limit_is_read(service, connect):
    package = {"name": "hello", "version": "2.0.0"}
    client = connect()
    client.sendall(post(service, json.dumps(package).encode().ljust(BODY_BYTES)))

    assert client.recv(100).startswith(b"HTTP/1.1 201")


def test_a_body_without_a_length_is_refused(service):
    def pieces():
        yield b"{}"

    answer = service.request("POST", "packages", data=pieces())

    assert (answer.status_code, answer.json()["title"]) == (411, "Length Required")


@pytest.mark.parametrize("kind", SLOW)
def test_the_service_stops_while_clients_are_slow(tmp_path, store_dir, kind):
    settings = {"DATA_DIR": tmp_path / "data", "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    # One process: gunicorn loses a signal that arrives while it starts another.
    settings |= {"MIN_FREE_BYTES": 1, "WEB_PROCESSES": 1}
    with Service(settings, measured=False) as service, ExitStack() as s:
        service.init_db()
        service.start()
        service.secret = service.sign_in()
        open_slow(s, lambda: dial(service.port), service, kind, count=4)

        assert service.stop() == 0

    assert until(lambda: not service.left())
