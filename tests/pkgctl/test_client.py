"""What pkgctl makes of the answers of a server."""

import contextlib
import gzip
import socket
import ssl
import threading
import time

import pytest
from harness import MAX_SECONDS, FakeAnswer, FakeServer, problem
from proxy import make_certificate

from pkgctl import client
from pkgctl.errors import ExitCode

TLS_HANDSHAKE = b"\x16"


@pytest.mark.parametrize(
    ("answer", "exit_code", "message"),
    [
        (FakeAnswer([], is_pkgd=False), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (FakeAnswer(b"<html>"), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (FakeAnswer(b"[" * 100_000), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (FakeAnswer(b"1" * 5000), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (
            FakeAnswer(b"", 404, is_pkgd=False),
            ExitCode.UNREACHABLE,
            "answers 404 Not Found, but not as pkgd does (is it another service's?",
        ),
        (
            FakeAnswer(b"<html>", 401, is_pkgd=False),
            ExitCode.UNREACHABLE,
            "answers 401 Unauthorized, but not as pkgd does (is it another service's?",
        ),
        (FakeAnswer(b"", 418), ExitCode.REFUSED, "answers 418 I'm a Teapot"),
        (
            FakeAnswer(b"", 301, {"Location": "https://x"}),
            ExitCode.REFUSED,
            "redirects to https://x (give https://x as --url)",
        ),
        (
            FakeAnswer(b"", 308, {"Location": "https://x/api/v1/packages?limit=1000"}),
            ExitCode.REFUSED,
            "redirects to https://x/api/v1/packages?limit=1000 (give https://x as --url)",
        ),
        (
            problem(500, "a fault"),
            ExitCode.REFUSED,
            "a fault (the server's log says more about request 1)",
        ),
        (None, ExitCode.UNREACHABLE, "the connection was lost"),
        (
            FakeAnswer(b"", 302, {"Location": "http://[x/"}),
            ExitCode.UNREACHABLE,
            "not as pkgd does",
        ),
        (
            FakeAnswer([1], 422, {"Content-Type": "application/problem+json"}),
            ExitCode.REFUSED,
            "answers 422 Unprocessable",
        ),
        (
            FakeAnswer(b"no gzip at all", headers={"Content-Encoding": "gzip"}),
            ExitCode.UNREACHABLE,
            "the connection was lost",
        ),
    ],
)
def test_an_answer_other_than_a_success_is_reported_in_one_line(
    unconfigured, answer, exit_code, message
):
    with FakeServer(lambda *_: answer) as server:
        done = unconfigured("list", "--url", server.url)

    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)
    assert message in done.stderr


def test_a_server_that_never_answers_is_unreachable(unconfigured, monkeypatch):
    monkeypatch.setattr(client, "READ_SECONDS", 0.1)
    gate = threading.Event()
    with FakeServer(lambda *_: gate.wait(MAX_SECONDS) and None) as server:
        done = unconfigured("list", "--url", server.url)
        gate.set()

    assert done.exit_code == ExitCode.UNREACHABLE
    assert "it doesn't answer in time" in done.stderr


def test_an_answer_without_an_end_is_not_kept(unconfigured, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_BYTES", 1000)
    answer = FakeAnswer(gzip.compress(bytes(1_000_000)), headers={"Content-Encoding": "gzip"})
    with FakeServer(lambda *_: answer) as server:
        done = unconfigured("list", "--url", server.url)

    assert (done.exit_code, "its answer is too large" in done.stderr) == (8, True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_down_at_first_is_not_waited_for(unconfigured, scheme):
    exit_code, output, errors = unconfigured.run("list", "--url", f"{scheme}://127.0.0.1:1")

    assert (exit_code, output, errors.count("\n")) == (ExitCode.UNREACHABLE, "", 1)
    assert errors.startswith(f"Error: can't reach {scheme}://127.0.0.1:1: Connection refused (")


def test_the_next_page_is_requested_from_the_same_server(unconfigured):
    link = {"Link": '<http://127.0.0.1:1/api/v1/packages?after=7>; rel="next"'}
    pages = {True: FakeAnswer([]), False: FakeAnswer([], headers=link)}
    with FakeServer(lambda _, path: pages["after" in path]) as server:
        done = unconfigured("list", "--url", server.url)

    assert done.exit_code == 0
    assert server.requests[1][1] == "/api/v1/packages?after=7"


def test_a_failing_catalog_does_not_hide_the_offers_of_the_others(unconfigured):
    offer = {"version": "1.0.0", "attr": "hello", "catalog": "good"}
    failure = {"catalog": "bad", "code": "evaluation_failed", "message": "error:\n  at 1:1"}
    found = {"name": "hello", "versions": [offer], "failures": [failure]}
    with FakeServer(lambda *_: FakeAnswer(found)) as server:
        done = unconfigured("versions", "hello", "--url", server.url)

    assert (done.exit_code, done.stdout) == (0, "1.0.0\thello\tgood\t-\t-\t-\t-\n")
    assert done.stderr == "Warning: bad: error ... at 1:1\n"


def test_a_spelling_can_not_be_looked_up_while_the_catalogs_fail(unconfigured):
    def answer(method, _path):
        return FakeAnswer({"detail": "not so"}, 422 if method == "POST" else 400)

    with FakeServer(answer) as server:
        done = unconfigured("create", "hello@2.10", "--url", server.url)

    assert (done.exit_code, server.count("catalog/hello")) == (ExitCode.REFUSED, 1)


def test_a_failing_catalog_is_an_error_if_no_other_has_offers(unconfigured):
    failure = {"catalog": "bad", "code": "evaluation_failed", "message": "error:\n  at 1:1"}
    found = {"name": "hello", "versions": [], "failures": [failure]}
    with FakeServer(lambda *_: FakeAnswer(found)) as server:
        done = unconfigured("versions", "hello", "--url", server.url)

    assert (done.exit_code, done.stderr) == (1, "Error: bad: error ... at 1:1\n")


# --- A URL with a path ---


@pytest.mark.parametrize("path", ["/wrong", "/api/v1", "/docs"])
@pytest.mark.parametrize("has_token", [True, False])
def test_a_path_at_which_there_is_no_pkgd_is_told_from_a_missing_token(
    unconfigured, service, path, has_token
):
    token = ("--token", service.secret) if has_token else ()

    done = unconfigured("list", "--url", f"{service.url}{path}", *token)

    assert (done.exit_code, done.stderr) == (
        ExitCode.UNREACHABLE,
        f"Error: there is no pkgd at {service.url}{path}, but at {service.url} "
        f"(give {service.url} as --url)\n",
    )


ALIVE = FakeAnswer({"status": "alive", "checks": {}})


@pytest.mark.parametrize(
    ("alive_at", "message"),
    [("/pkgd/livez", "Error: a live token is needed ("), (None, ", but not as pkgd does (is it")],
)
def test_behind_a_prefix_a_missing_token_is_told_as_such(unconfigured, alive_at, message):
    refusal = problem(401, "a live token is needed")
    with FakeServer(lambda _, path: ALIVE if path == alive_at else refusal) as server:
        done = unconfigured("list", "--url", f"{server.url}/pkgd")

    assert message in done.stderr


def test_to_look_whether_it_is_pkgd_sends_no_credentials_of_a_netrc_file(unconfigured, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    unconfigured.environ |= {"HOME": str(tmp_path)}
    with FakeServer(lambda *_: problem(401, "a live token is needed")) as server:
        unconfigured("list", "--url", f"{server.url}/pkgd", "--token", "t")

        paths = ["/pkgd/api/v1/packages?limit=1000", "/pkgd/livez", "/livez"]
        assert [path for _, path, _ in server.requests] == paths
        assert [token for *_, token in server.requests] == ["Bearer t", None, None]


@pytest.mark.parametrize("answer", [FakeAnswer(b"<html>"), FakeAnswer([], is_pkgd=False)])
def test_a_page_below_a_pkgd_is_told_to_be_none(unconfigured, answer):
    with FakeServer(lambda _, path: ALIVE if path == "/livez" else answer) as server:
        done = unconfigured("list", "--url", f"{server.url}/page")

    assert f"there is no pkgd at {server.url}/page, but at {server.url} (" in done.stderr


def test_a_missing_token_at_the_right_url_is_told_as_such(unconfigured, service):
    done = unconfigured("list", "--url", service.url)

    assert done.exit_code == ExitCode.NOT_ALLOWED
    assert "(pkgctl login, --token or PKGCTL_TOKEN give one)" in done.stderr


# --- http and https ---


@contextlib.contextmanager
def tls_server(folder, plain_answer):
    """Run a server that speaks TLS, and answers all else with these bytes; yield its port."""
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")

    def serve():
        with contextlib.suppress(OSError):
            while True:
                answer(listener.accept()[0])

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            if connection.recv(1, socket.MSG_PEEK) == TLS_HANDSHAKE:
                context.wrap_socket(connection, server_side=True).close()
            else:
                connection.recv(4096)
                connection.sendall(plain_answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_https_against_a_port_that_speaks_http_says_so_at_once(unconfigured, service):
    started = time.monotonic()

    done = unconfigured("list", "--url", f"https://127.0.0.1:{service.port}")

    assert time.monotonic() - started < 3
    assert (done.exit_code, done.stderr) == (
        ExitCode.UNREACHABLE,
        f"Error: https://127.0.0.1:{service.port} speaks http, not https "
        f"(give http://127.0.0.1:{service.port} as --url)\n",
    )


@pytest.mark.parametrize(
    "plain_answer",
    [
        b"",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ],
)
def test_http_against_a_port_that_speaks_https_says_so_at_once(
    unconfigured, tmp_path, plain_answer
):
    with tls_server(tmp_path, plain_answer) as port:
        done = unconfigured("list", "--url", f"http://127.0.0.1:{port}")

    assert (done.exit_code, done.stderr) == (
        ExitCode.UNREACHABLE,
        f"Error: http://127.0.0.1:{port} speaks https, not http "
        f"(give https://127.0.0.1:{port} as --url)\n",
    )


@pytest.mark.parametrize("plain_answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_certificate_that_nobody_trusts_is_named(unconfigured, tmp_path, plain_answer):
    with tls_server(tmp_path, plain_answer) as port:
        done = unconfigured("list", "--url", f"https://127.0.0.1:{port}")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert "certificate verify failed: self-signed certificate" in done.stderr
    assert "(REQUESTS_CA_BUNDLE names the file" in done.stderr


def test_https_against_a_port_that_speaks_neither_is_a_lost_connection(unconfigured):
    with FakeServer(lambda *_: None) as server:
        url = server.url.replace("http", "https")
        done = unconfigured("list", "--url", url)

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert done.stderr.startswith(f"Error: can't reach {url}: ")


def test_a_file_of_certificates_that_there_is_not_is_named(unconfigured, tmp_path):
    unconfigured.environ["REQUESTS_CA_BUNDLE"] = "/nonexistent"

    with tls_server(tmp_path, b"") as port:
        done = unconfigured("list", "--url", f"https://127.0.0.1:{port}")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1)
    assert "invalid path: /nonexistent" in done.stderr


# --- Proxies ---


@pytest.mark.parametrize(
    ("proxy", "shown", "reason"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1", "Connection refused"),
        ("http://me:secret@127.0.0.1:1", "http://127.0.0.1:1", "Connection refused"),
        ("me:secret@127.0.0.1:1", "127.0.0.1:1", "Please check proxy URL"),
        ("socks5://127.0.0.1:1", "socks5://127.0.0.1:1", "Missing dependencies for SOCKS"),
        ("http://", "http://", "Please check proxy URL. It is malformed"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_fails_is_named_without_its_password(
    unconfigured, scheme, proxy, shown, reason
):
    unconfigured.environ |= {f"{scheme}_proxy": proxy, f"{scheme.upper()}_PROXY": proxy}

    done = unconfigured("list", "--url", f"{scheme}://pkgd.invalid")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1)
    begin = f"Error: can't reach {scheme}://pkgd.invalid through the proxy {shown}: {reason}"
    assert done.stderr.startswith(begin)
    assert "NO_PROXY" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "exit_code", "text"),
    [
        (FakeAnswer(b"", 502, is_pkgd=False), ExitCode.UNREACHABLE, "answers 502 Bad Gateway"),
        (FakeAnswer(b"", 400, is_pkgd=False), ExitCode.REFUSED, "answers 400 Bad Request"),
        (FakeAnswer(b"", 403, is_pkgd=False), ExitCode.NOT_ALLOWED, "answers 403 Forbidden"),
        (FakeAnswer(b"", is_pkgd=False), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
    ],
)
def test_a_proxy_that_answers_itself_is_named(unconfigured, answer, exit_code, text):
    with FakeServer(lambda *_: answer) as proxy:
        unconfigured.environ |= {"http_proxy": proxy.url, "HTTP_PROXY": proxy.url}
        done = unconfigured("list", "--url", "http://pkgd.invalid")

    assert (done.exit_code, done.stderr) == (
        exit_code,
        f"Error: http://pkgd.invalid, through the proxy {proxy.url}, {text}\n",
    )


def test_a_refusal_of_the_server_through_a_proxy_is_the_servers(unconfigured):
    with FakeServer(lambda *_: problem(409, "a conflict")) as proxy:
        unconfigured.environ |= {"http_proxy": proxy.url, "HTTP_PROXY": proxy.url}
        done = unconfigured("list", "--url", "http://pkgd.invalid")

    assert (done.exit_code, done.stderr) == (ExitCode.REFUSED, "Error: a conflict\n")
