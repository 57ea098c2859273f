"""What a shell completes, and that nothing is said where that fails."""

import contextlib
import json
import socket
import subprocess
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from click.shell_completion import ShellComplete
from harness import COMMAND, TASK_ID, FakeAnswer, FakeServer
from service import ROOT

from pkgctl import cli

PACKAGES = [
    {"id": 1, "name": "hello", "version": "2.10.0", "status": "downloaded"},
    {"id": 2, "name": "hello", "version": "2.12.1", "status": "activated"},
    {"id": 3, "name": "parrot", "version": "1.0.0", "status": "activated"},
]
TASK = {"id": TASK_ID, "status": "failed", "created_at": "2026-01-01T00:00:00.000Z"}
OFFERS = [
    {"version": "2.12.1", "catalog": "a", "available": True},
    {"version": "2.11.0", "catalog": "a", "available": False},
]
ANSWERS = {
    "/catalog/hello": {"versions": OFFERS},
    "/catalog": [
        {"name": "hello", "description": "greets"},
        {"name": "othello", "description": ""},
    ],
    "/tasks": [TASK],
    "/generations": [{"number": 12, "packages": PACKAGES[:1]}, {"number": 3, "packages": []}],
    "/profiles": [{"name": "default", "packages": []}, {"name": "team", "packages": PACKAGES[:1]}],
    "/machines": [{"name": "web-1", "profile": "default", "state": "current"}],
    "/tokens": [{"id": 7, "name": "robot"}],
    "/webhooks": [{"id": 8, "url": "https://example.org/"}],
}


def answer(_, path):
    """Answer as a server that has a few of everything."""
    parts = urlsplit(path)
    if parts.path.endswith("/packages"):
        wanted = {name: values[0] for name, values in parse_qs(parts.query).items()}
        wanted.pop("limit")
        return FakeAnswer([one for one in PACKAGES if wanted.items() <= one.items()])
    return FakeAnswer(ANSWERS[parts.path.removeprefix("/api/v1")])


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """The environment of a user with a login for a server that has a few of everything."""
    with FakeServer(answer) as server:
        login = {"default": "prod", "servers": {"prod": {"url": server.url, "token": "t"}}}
        (tmp_path / "pkgctl").mkdir()
        (tmp_path / "pkgctl" / "servers.json").write_text(json.dumps(login))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        for name in ("PKGCTL_URL", "PKGCTL_TOKEN", "PKGCTL_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        yield server


def completed(*words):
    """Return what the last word may become."""
    completion = ShellComplete(cli.cli, {}, "pkgctl", "_PKGCTL_COMPLETE")
    return [item.value for item in completion.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("install", "he"), ["hello"]),
        (("install", ""), []),
        (("install", "parrot", "hello@"), ["hello@2.12.1"]),
        (("versions", "oth"), ["othello"]),
        (("versions", "hello@"), []),
        (("search", "hel"), ["hello"]),
        (("show", ""), ["hello", "parrot"]),
        (("info", "p"), ["parrot"]),
        (("deactivate", "hello", "hello@2.1"), ["hello@2.10.0", "hello@2.12.1"]),
        (("list", "--name", "h"), ["hello"]),
        (("list", "--name", "h@"), []),
        (("upgrade", ""), ["hello", "parrot"]),
        (("logs", ""), [TASK_ID[:8], "hello", "parrot"]),
        (("switch", "1"), ["12"]),
        (("switch", "-p", "team", "1"), ["12"]),
        (("switch", "-p", "t"), ["team"]),
        (("promote", ""), ["default", "team"]),
        (("apply", "pkgs.toml", "--upgrade", "h"), ["hello"]),
        (("token", "revoke", ""), ["7"]),
        (("webhook", "show", ""), ["8"]),
        (("machine", "w"), ["web-1"]),
        (("machines", "-p", "d"), ["default"]),
        (("machines", "--state", "f"), ["failed"]),
        (("rollout", ""), ["default", "team"]),
        (("events", "--type", "package."), ["package.*", "package.registered", "package.removed"]),
        (("server", "use", ""), ["prod"]),
        (("list", "--server", "p"), ["prod"]),
        (("uninst",), ["uninstall"]),
    ],
    ids=" ".join,
)
def test_a_word_is_completed_by_what_the_server_has(environ, words, values):
    assert completed(*words) == values


def test_the_completion_is_of_the_profile_that_is_meant(environ, monkeypatch):
    completed("switch", "-p", "team", "1")
    monkeypatch.setenv("PKGCTL_PROFILE", "../x")

    assert completed("upgrade", "h") == ["hello"]

    paths = [path for _, path, _ in environ.requests]
    assert [parse_qs(urlsplit(path).query).get("profile") for path in paths] == [["team"], None]


@pytest.mark.parametrize(
    "words", [("install", "x"), ("install", "hello@"), ("show", ""), ("logs", ""), ("switch", "")]
)
@pytest.mark.parametrize(
    "fault",
    [
        FakeAnswer({"no": "list"}),
        FakeAnswer(b"<html>", is_pkgd=False),
        FakeAnswer(b"[" * 100_000),
        FakeAnswer({}, 401),
        None,
    ],
    ids=["other", "html", "deep", "refused", "lost"],
)
def test_a_fault_of_the_server_completes_nothing_and_says_nothing(
    environ, monkeypatch, capfd, words, fault
):
    with FakeServer(lambda *_: fault) as server:
        monkeypatch.setenv("PKGCTL_URL", server.url)
        monkeypatch.setenv("PKGCTL_TOKEN", "t")

        assert completed(*words) == []
        assert len(server.requests) in (1, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "document"),
    [
        (("logs", ""), [TASK | {"created_at": "soon"}]),
        (("install", "x"), [{"name": None, "description": None}]),
        (("switch", ""), [{"number": 1, "packages": None}]),
    ],
)
def test_a_document_of_another_service_completes_nothing(environ, monkeypatch, words, document):
    with FakeServer(lambda *_: FakeAnswer(document)) as server:
        monkeypatch.setenv("PKGCTL_URL", server.url)
        monkeypatch.setenv("PKGCTL_TOKEN", "t")

        assert completed(*words) == []


@pytest.mark.parametrize("more", ["$(id)", ";id", "\n", " x", "\x1b[2J", "\ud800", "'", "*"])
def test_only_what_a_shell_takes_for_a_word_is_completed(environ, monkeypatch, more):
    packages = [*PACKAGES, PACKAGES[0] | {"name": f"help{more}", "version": f"1{more}"}]
    with FakeServer(lambda *_: FakeAnswer(packages)) as server:
        monkeypatch.setenv("PKGCTL_URL", server.url)
        monkeypatch.setenv("PKGCTL_TOKEN", "t")

        assert completed("show", "hel") == ["hello"]
        assert completed("show", f"help{more}@") == []


def test_the_note_of_a_completion_is_one_line(environ, monkeypatch):
    packages = [PACKAGES[0] | {"status": "down\nloaded\x1b[2J"}]
    with FakeServer(lambda *_: FakeAnswer(packages)) as server:
        monkeypatch.setenv("PKGCTL_URL", server.url)
        monkeypatch.setenv("PKGCTL_TOKEN", "t")

        (item,) = ShellComplete(cli.cli, {}, "pkgctl", "").get_completions(["show"], "")
    assert item.help == "down?loaded?[2J"


@pytest.fixture
def trickle():
    """The URL of a server whose answer comes byte by byte, and what tells that it has ended."""
    ended, head = threading.Event(), b"HTTP/1.1 200 OK\r\nX-Request-ID: x\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(head)
                while not ended.wait(0.1):
                    connection.sendall(b" ")

        thread = threading.Thread(target=send)
        thread.start()
        timer = threading.Timer(30, ended.set)
        timer.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", ended
        timer.cancel()
        ended.set()
        thread.join()


def test_an_answer_that_comes_byte_by_byte_holds_nobody_up(trickle, environ, monkeypatch):
    url, ended = trickle
    monkeypatch.setenv("PKGCTL_URL", url)
    monkeypatch.setenv("PKGCTL_TOKEN", "t")

    assert completed("show", "") == []
    assert not ended.is_set()


def test_without_a_token_nobody_is_asked(environ, monkeypatch):
    monkeypatch.setenv("PKGCTL_URL", f"{environ.url}/other")

    assert completed("show", "") == []
    assert environ.requests == []


@pytest.mark.parametrize("words", [("show", ""), ("server", "use", ""), ("list", "--server", "")])
def test_a_broken_login_file_completes_nothing(environ, tmp_path, words):
    (tmp_path / "pkgctl" / "servers.json").write_text("{")

    assert completed(*words) == []


def test_the_token_and_the_server_of_the_line_are_used(environ):
    assert completed("--token", "other", "show", "par") == ["parrot"]
    assert environ.requests[-1][2] == "Bearer other"


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("pkgctl show hello@2.1", "2.10.0 2.12.1"),
        ("pkgctl show ", "hello parrot"),
        ("pkgctl list --server=p", "prod"),
    ],
)
def test_bash_completes_past_an_at_sign(environ, line, replies):
    """Bash ends a word there, and replaces what comes after it alone."""
    script = f"""
      pkgctl() {{ {COMMAND[0]} -m pkgctl "$@"; }}
      env() {{ ( export "${{@:1:2}}"; pkgctl ); }}
      eval "$(pkgctl completion bash)"
      COMP_LINE="$1" COMP_POINT=${{#1}}
      _pkgctl_completion pkgctl
      echo "${{COMPREPLY[*]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", line], capture_output=True, text=True, cwd=ROOT
    )

    assert (done.stdout, done.stderr) == (f"{replies}\n", "")
