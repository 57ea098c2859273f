"""What gunicorn refuses before the application sees it is a problem document, too."""

import json
import socket

import pytest
from service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service."""
    data_dir = tmp_path_factory.mktemp("refusals") / "data"
    settings = {"DATA_DIR": data_dir, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    # one process: gunicorn loses a signal that comes while it starts another
    with Service(settings | {"WEB_PROCESSES": 1}) as service:
        service.command("init-db")
        yield service.start()
        service.stop()


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        ("GET /hello?" + "x" * 5000 + " HTTP/1.1", "X: y", 414),
        ("GET /hello HTTP/1.1", "X: " + "y" * 5000, 431),
        ("GET /hello HTTP/1.1", "X(: y", 400),
        ('nonsense \\ "caf\xe9"', "X: y", 400),
    ],
)
def test_what_is_no_proper_request_is_a_problem(service, request_line, header, status):
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(f"{request_line}\r\nHost: x\r\n{header}\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("ascii")

    head, _, body = answer.partition("\r\n\r\n")
    document = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/problem+json" in head
    assert f"X-Request-ID: {document['instance']}" in head
    assert document["status"] == status
