"""What pkgctl makes of the answers of a server."""

import threading

import pytest
from harness import MAX_SECONDS, FakeAnswer, FakeServer, problem

from pkgctl import client
from pkgctl.errors import ExitCode


@pytest.mark.parametrize(
    ("answer", "exit_code", "message"),
    [
        (FakeAnswer([], is_pkgd=False), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (FakeAnswer(b"<html>"), ExitCode.UNREACHABLE, "answers, but not as pkgd does"),
        (FakeAnswer(b"", 404, is_pkgd=False), ExitCode.NOT_FOUND, "answers 404 Not Found"),
        (FakeAnswer(b"", 418), ExitCode.REFUSED, "answers 418 I'm a Teapot"),
        (
            FakeAnswer(b"", 301, {"Location": "https://x"}),
            ExitCode.REFUSED,
            "redirects to https://x (give that address as --url)",
        ),
        (
            problem(500, "a fault"),
            ExitCode.REFUSED,
            "a fault (the server's log says more about request 1)",
        ),
        (None, ExitCode.UNREACHABLE, "the connection was lost"),
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


def test_a_server_that_is_down_at_first_is_not_waited_for(unconfigured):
    exit_code, output, errors = unconfigured.run("list", "--url", "http://127.0.0.1:1")

    assert (exit_code, output, errors.count("\n")) == (ExitCode.UNREACHABLE, "", 1)
    assert errors.startswith("Error: can't reach http://127.0.0.1:1: Connection refused (")


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
        done = unconfigured("search", "hello", "--url", server.url)

    assert (done.exit_code, done.stdout) == (0, "1.0.0\thello\tgood\n")
    assert done.stderr == "Warning: bad: error ... at 1:1\n"


def test_a_failing_catalog_is_an_error_if_no_other_has_offers(unconfigured):
    failure = {"catalog": "bad", "code": "evaluation_failed", "message": "error:\n  at 1:1"}
    found = {"name": "hello", "versions": [], "failures": [failure]}
    with FakeServer(lambda *_: FakeAnswer(found)) as server:
        done = unconfigured("search", "hello", "--url", server.url)

    assert (done.exit_code, done.stderr) == (1, "Error: bad: error ... at 1:1\n")
