"""Slow clients: they wait for themselves alone, and not for long."""

import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest
import requests
from service import Service
from support import until

import reception

HEAD = b"POST /api/v1/packages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLOW = 200
CONNECTIONS = 32


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service with few threads."""
    folder = tmp_path_factory.mktemp("reception") / "data"
    settings = {"DATA_DIR": folder, "STORE_DIR": store_dir, "MIN_FREE_BYTES": 1}
    with Service(settings | {"WEB_THREADS": 4, "WORKER_THREADS": 0}) as service:
        service.command("init-db")
        yield service.start()
        service.stop()


@pytest.fixture
def connect(service):
    """Return a function that opens a connection to the service and sends something."""
    opened = []

    def connect(*parts):
        opened.append(socket.create_connection(("127.0.0.1", service.port), timeout=30))
        for part in parts:
            opened[-1].sendall(part)
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


@pytest.fixture
def connections(service):
    """Return a function that tells how many connections each process of the service has."""

    def connections():
        processes = psutil.Process(service.server.pid).children()
        open_ = [process.net_connections("tcp") for process in processes]
        return [sum(one.status == psutil.CONN_ESTABLISHED for one in each) for each in open_]

    return connections


def is_closed(client):
    """Wait, as long as the connection's time-out, for the service to close it."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def hello(service):
    with requests.get(f"{service.url}/hello", timeout=5) as answer:
        return answer.status_code


def test_connections_are_shared_out_between_the_processes(service, connect, connections):
    def all_serve():
        hello(service)
        counters = Path(f"/dev/shm/pkgd-{os.getuid()}-{service.port}").glob("histogram_*")
        return len(list(counters)) == len(connections())

    until(all_serve)
    for _ in range(CONNECTIONS):
        connect()

    until(lambda: sum(connections()) == CONNECTIONS)
    assert min(connections()) > CONNECTIONS / 5


@pytest.mark.parametrize("beginning", [b"POST /api/v1/pack", HEAD + b"Content-Length: 99\r\n\r\n{"])
def test_many_slow_clients_hold_nobody_up_and_are_shown_out(service, connect, beginning):
    slow = [connect(beginning) for _ in range(SLOW)]

    assert [hello(service) for _ in range(10)] == [200] * 10

    assert all(is_closed(one) for one in slow)


def test_a_request_may_come_in_pieces(connect):
    body = json.dumps({"name": "hello", "version": "1.0.0"}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    client = connect()

    for byte in range(0, len(request), 40):
        client.sendall(request[byte : byte + 40])
        time.sleep(0.01)  # or the pieces would arrive as one

    assert client.recv(100).startswith(b"HTTP/1.1 401")


def test_requests_may_follow_one_another_without_waiting(connect):
    hello = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
    client = connect(hello + hello)

    answers = b""
    while answers.count(b"Welcome") < 2:
        answers += client.recv(1000)

    assert answers.count(b"HTTP/1.1 200") == 2


def test_a_client_that_leaves_early_is_forgotten(service, connect):
    connect(b"POST /api").close()
    client = connect(b"POST /api")
    client.shutdown(socket.SHUT_WR)

    assert is_closed(client)
    assert hello(service) == 200


@pytest.mark.parametrize("size", [65_536, 70_000, 1_000_000])
def test_a_body_over_the_limit_is_not_waited_for(service, connect, size):
    client = connect(HEAD + b"Content-Length: %d\r\n\r\n" % size, b"x" * min(size, 65_536))

    assert client.recv(100).startswith((b"HTTP/1.1 401", b"HTTP/1.1 413"))


def test_a_body_without_a_length_is_refused(service):
    service.sign_in()

    def pieces():
        yield b"{}"

    answer = service.request("POST", "packages", data=pieces())

    assert (answer.status_code, answer.json()["title"]) == (411, "Length Required")


@pytest.mark.parametrize(
    ("there", "whole"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\ncontent-length:  3\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\ncontent-length:  3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"a" * 65_536, True),
        (b"POST / HTTP/1.1\r\nX-Content-Length: 9\r\n\r\n", True),
    ],
)
def test_a_request_is_whole_when_all_that_it_announces_is_there(there, whole):
    assert reception.is_whole(there) is whole


def test_a_connection_that_is_gone_has_nothing_more_to_come():
    here, there = socket.socketpair()
    assert reception.peek(here) == b""

    there.close()
    assert reception.peek(here) is None

    here.close()
    assert reception.peek(here) is None


def test_the_service_stops_while_clients_are_slow(tmp_path, store_dir):
    settings = {"DATA_DIR": tmp_path / "data", "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    # one process: gunicorn loses a signal that comes while it starts another
    with Service(settings | {"MIN_FREE_BYTES": 1, "WEB_PROCESSES": 1}) as service:
        service.command("init-db")
        service.start()
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            slow.sendall(b"GET /hel")

            assert service.stop() == 0

    assert until(lambda: not service.left())
