"""What the proxy or gunicorn refuses before the application sees it."""

import json
import re
import socket
import subprocess
from contextlib import suppress

import pytest
from proxy import HOST, Caddy, Nginx, dial, program
from service import Service, free_port
from support import until

GET = f"GET /hello HTTP/1.1\r\nHost: {HOST}\r\n"
POST = f"POST /api/v1/packages HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
LATER_HTTP = GET.replace("HTTP/1.1", "HTTP/3.0")


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A running service that trusts one proxy."""
    data_dir = tmp_path_factory.mktemp("refusals") / "data"
    settings = {"DATA_DIR": data_dir, "STORE_DIR": store_dir, "WORKER_THREADS": 0}
    # One process: gunicorn loses a signal that arrives while it starts another.
    settings |= {"WEB_PROCESSES": 1, "TRUSTED_PROXIES": 1}
    with Service(settings, measured=False) as service:
        service.init_db()
        service.start()
        service.secret = service.sign_in()
        yield service
        service.stop()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, service):
    """nginx in front of the service."""
    with Nginx(tmp_path_factory.mktemp("nginx"), service.port) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def lonely_nginx(tmp_path_factory):
    """nginx in front of a port on which nothing listens."""
    with Nginx(tmp_path_factory.mktemp("lonely"), free_port()) as nginx:
        yield nginx


@pytest.fixture
def lonely_caddy(tmp_path):
    """Caddy in front of a port on which nothing listens."""
    with Caddy(tmp_path, free_port()) as caddy:
        yield caddy


@pytest.fixture
def caddy(tmp_path, service):
    """Caddy in front of the service."""
    with Caddy(tmp_path, service.port) as caddy:
        yield caddy


@pytest.fixture
def silent_nginx(tmp_path):
    """nginx in front of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        changes = [("proxy_read_timeout 180s", "proxy_read_timeout 1s")]
        with Nginx(tmp_path, port, changes) as nginx:
            yield nginx


def ask(connection, request):
    """Send a request, and return the head and the body of all that is answered."""
    answer = b""
    with connection:
        connection.sendall(request.encode("latin-1"))
        # nginx resets a connection on which a refused body does not come; Python 3.11 reads an end.
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    head, _, body = answer.decode("ascii").partition("\r\n\r\n")
    return head, body


def assert_problem(answer, status):
    """Assert that an answer is a complete problem document; return the document."""
    head, body = answer
    document = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/problem+json" in head
    assert re.search(
        f"^X-Request-I[Dd]: {document['instance']}$", head.replace("\r", ""), re.MULTILINE
    )
    assert "Strict-Transport-Security: max-age=31536000" in head
    assert document.keys() == {"type", "title", "status", "detail", "instance"}
    assert (document["type"], document["status"]) == ("about:blank", status)
    assert document["title"] != "Error"
    return document


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /hello?" + "x" * 5000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (f"{GET}X: {'y' * 5000}\r\n\r\n", 431),
        ('nonsense \\ "caf\xe9"\r\nHost: x\r\n\r\n', 400),
        ("GET /hello HTTP/1.1\r\n\r\n", 400),
        (f"{GET.replace('GET', 'TRACE')}\r\n", 405),
        (f"{POST}Content-Length: 2000000\r\n\r\n", 413),
        (f"{POST}Transfer-Encoding: gzip\r\n\r\n", 501),
        (f"{LATER_HTTP}\r\n", 505),
    ],
    ids=["line", "header", "nonsense", "no host", "trace", "body", "encoding", "version"],
)
def test_nginx_refuses_with_a_problem(nginx, request_, status):
    assert_problem(ask(nginx.connect(), request_), status)


def over_http2(nginx, *arguments):
    """Ask nginx by curl, over HTTP/2; return the status, the content type and the body."""
    url = f"https://{HOST}:{nginx.port}"
    own = ("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", "--insecure", "--http2", "--silent")
    form = ("--write-out", "\n%{http_version} %{http_code} %{content_type}")
    *options, path = arguments
    argv = [program("curl"), *own, *form, *options, f"{url}{path}"]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    body, _, facts = answer.rpartition("\n")
    version, status, content_type = facts.split(" ")
    assert version == "2"
    return int(status), content_type, json.loads(body)


def fields(count, length=1):
    """Return curl's options for so many header fields, their names and values of this length."""
    return [part for n in range(count) for part in ("-H", f"X{n:0{length}d}: {'y' * length}")]


LARGE = ["-d", "x" * 70_000, "-H", "Content-Type: application/json"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["/hello?" + "x" * 3990], 200),
        ([*fields(1, 2500), "/hello"], 431),
        ([*fields(60), "/hello"], 431),
        ([*LARGE, "/api/v1/packages"], 413),
        (["-d", "{", "-H", "Content-Type: application/json", "/api/v1/packages"], 401),
        (["/nope"], 401),
    ],
    ids=["long line", "long header", "60 headers", "body", "401", "path"],
)
def test_over_http_2_every_refusal_is_a_problem(nginx, arguments, status):
    answered, content_type, document = over_http2(nginx, *arguments)

    kind = "application/json" if status == 200 else "application/problem+json"
    assert (answered, content_type) == (status, kind)
    assert document.get("status", 200) == status


def test_a_body_that_is_too_large_is_refused_with_the_limit(nginx):
    _, _, document = over_http2(nginx, *LARGE, "/api/v1/packages")

    assert document["detail"] == "a body may have 65536 bytes at most"


def test_http_to_the_port_of_https_is_a_problem_that_says_so(nginx):
    head, body = ask(dial(nginx.port), f"{GET}Connection: close\r\n\r\n")

    assert head.startswith("HTTP/1.1 400 ")
    assert "Content-Type: application/problem+json" in head
    document = json.loads(body)
    assert (document["status"], document["detail"]) == (400, "this port speaks https, not http")
    assert f"X-Request-ID: {document['instance']}" in head


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_malformed_chunk_is_a_problem(nginx, method):
    head = POST.replace("POST", method)

    answer = ask(nginx.connect(), f"{head}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n")

    assert_problem(answer, 400)


def test_the_services_own_400_passes_through_nginx(nginx, service):
    body = (
        f"Authorization: Token {service.secret}\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{{"
    )

    head, body = ask(nginx.connect(), f"{POST}{body}")

    assert head.startswith("HTTP/1.1 400 ")
    assert json.loads(body)["errors"] == {"body": ["Invalid JSON body."]}


def test_a_body_in_chunks_reaches_the_service_through_nginx(nginx, service):
    token = f"Authorization: Token {service.secret}\r\nConnection: close\r\n"
    chunk = '{"name": "hello", "version": "1.0.0"}'
    body = f"Transfer-Encoding: chunked\r\n\r\n{len(chunk):x}\r\n{chunk}\r\n0\r\n\r\n"

    head, _ = ask(nginx.connect(), f"{POST}{token}{body}")

    assert head.startswith("HTTP/1.1 201 ")


def test_nginx_refuses_nothing_that_gunicorn_would_take(nginx):
    line = "GET /hello?" + "x" * (3980 - len("GET /hello? HTTP/1.1")) + " HTTP/1.1"
    request = f"{line}\r\nHost: {HOST}\r\nX: {'y' * 3980}\r\nConnection: close\r\n\r\n"

    head, body = ask(nginx.connect(), request)

    assert head.startswith("HTTP/1.1 200 ")
    assert "Welcome" in body


def test_a_service_that_is_down_is_a_502(lonely_nginx):
    assert_problem(ask(lonely_nginx.connect(), f"{GET}Connection: close\r\n\r\n"), 502)


def test_a_service_that_is_down_is_a_502_behind_caddy(lonely_caddy):
    assert_problem(ask(lonely_caddy.connect(), f"{GET}Connection: close\r\n\r\n"), 502)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /hello?" + "x" * 5000 + f" HTTP/1.1\r\nHost: {HOST}\r\n", 414),
        (f"{GET}X: {'y' * 5000}\r\n", 431),
        (GET + "".join(f"X{n}: y\r\n" for n in range(60)), 431),
    ],
    ids=["line", "header", "60 headers"],
)
def test_what_gunicorn_refuses_is_a_problem_behind_caddy(caddy, request_, status):
    assert_problem(ask(caddy.connect(), f"{request_}Connection: close\r\n\r\n"), status)


def test_the_services_own_refusals_pass_through_caddy(caddy):
    head, body = ask(caddy.connect(), f"{GET.replace('/hello', '/nope')}Connection: close\r\n\r\n")

    assert head.startswith("HTTP/1.1 401 ")
    assert "flask create-token" in json.loads(body)["detail"]


def test_a_service_that_does_not_answer_is_a_504(silent_nginx):
    assert_problem(ask(silent_nginx.connect(), f"{GET}Connection: close\r\n\r\n"), 504)


def test_an_address_with_too_many_connections_gets_a_503(tmp_path, service):
    changes = [("limit_conn pkgd_addresses 128", "limit_conn pkgd_addresses 1")]
    with Nginx(tmp_path, service.port, changes) as nginx, nginx.connect() as first:
        first.sendall(f"{POST}Content-Length: 9\r\n\r\n".encode())

        def refused():
            answer = ask(nginx.connect(), f"{GET}Connection: close\r\n\r\n")
            return answer if answer[0].startswith("HTTP/1.1 503") else None

        assert_problem(until(refused), 503)


@pytest.mark.parametrize("given", ["abc-123", "X_9"])
def test_a_clients_request_id_is_kept_by_nginx(lonely_nginx, given):
    request = f"{GET}X-Request-ID: {given}\r\nConnection: close\r\n\r\n"

    assert assert_problem(ask(lonely_nginx.connect(), request), 502)["instance"] == given


def test_a_request_id_that_is_not_plain_is_replaced_by_nginx(lonely_nginx):
    request = f'{GET}X-Request-ID: a"b\r\nConnection: close\r\n\r\n'

    assert len(assert_problem(ask(lonely_nginx.connect(), request), 502)["instance"]) == 32


def test_the_refusals_of_the_service_pass_through_nginx(nginx):
    head, body = ask(
        nginx.connect(), f"{POST}Connection: close\r\nContent-Length: 9\r\n\r\n123456789"
    )

    assert head.startswith("HTTP/1.1 401 ")
    assert "X-Request-ID: " + json.loads(body)["instance"] in head


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        ("GET /hello?" + "x" * 5000 + " HTTP/1.1", "X: y", 414),
        ("GET /hello HTTP/1.1", "X: " + "y" * 5000, 431),
        ("GET /hello HTTP/1.1", "X(: y", 400),
        ('nonsense \\ "caf\xe9"', "X: y", 400),
    ],
)
def test_gunicorn_refuses_what_is_no_proper_request(service, request_line, header, status):
    connection = socket.create_connection(("127.0.0.1", service.port))

    head, _ = ask(connection, f"{request_line}\r\nHost: x\r\n{header}\r\n\r\n")

    assert head.startswith(f"HTTP/1.1 {status} ")
