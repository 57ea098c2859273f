"""pkgctl events: what happened, in a line each, and what happens."""

import json
import re
import signal
import threading

import pytest
from harness import CommandRunner, FakeAnswer, FakeServer, problem
from support import SQLITE, bearing
from werkzeug.serving import make_server

from pkgctl.errors import ExitCode
from pkgctl.events import sentence

AT = "2026-01-01T00:00:00.123Z"
CI = {"kind": "token", "id": 3, "name": "ci"}
PACKAGE = {"id": 7, "name": "hello", "version": "2.12.1"}


def event(type_="package.registered", subject=("package", 7, "hello"), by=CI, seq=17, **data):
    """Return an event as the API shows it."""
    about = dict(zip(("kind", "id", "name"), subject, strict=True))
    data = data or {"version": "2.12.1"}
    return {"seq": seq, "at": AT, "type": type_, "by": by, "subject": about, "data": data}


def task(kind, what="hello 2.12.1", profile=None, code=None, ended="succeeded"):
    """Return the event of a task."""
    error = {"code": code, "message": "it did\n\nnot build", "hint": "read"} if code else None
    data = {"kind": kind, "package": None, "profile": profile, "error": error}
    return event(f"task.{ended}", ("task", "0193", what), **data)


def change(number, reason, added=(), removed=()):
    """Return the event of a change of a profile."""
    data = {"generation": number, "reason": reason, "added": added, "removed": removed}
    return event("profile.changed", ("profile", 1, "team"), **data)


# --- A real service ---


@pytest.fixture
def served(app, tmp_path):
    """The command for the application, which a server of this process serves."""
    secret = app.test_client().post("/api/v1/tokens", json={"name": "ci"}).json["token"]
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    ctl = CommandRunner(tmp_path, f"http://127.0.0.1:{server.port}", secret)
    ctl.client = bearing(app, secret)
    yield ctl
    server.shutdown()
    thread.join()
    server.server_close()


def register(ctl, *names):
    """Register packages."""
    for name in names:
        ctl.client.post("/api/v1/packages", json={"name": name, "version": "1.0.0"})


@SQLITE
def test_the_newest_events_are_listed_oldest_first(served):
    register(served, "a1", "a2", "a3")

    rows = served.rows("events", "-n", "2")

    assert [[row[1], *row[2:]] for row in rows] == [
        ["3", "package.registered", "ci", "registered a2 1.0.0"],
        ["4", "package.registered", "ci", "registered a3 1.0.0"],
    ]
    assert [one["seq"] for one in served.json("events")] == [1, 2, 3, 4]


@SQLITE
def test_events_are_listed_from_a_number_on_by_type(served):
    register(served, "a1", "a2")

    found = served.json("events", "--since", 0, "--type", "package.*", "--type", "token.minted")

    assert [one["seq"] for one in found] == [1, 2, 3]
    assert served.json("events", "--since", 1, "-n", "1", "--type", "package.*")[0]["seq"] == 2
    assert served("events", "--type", "package").exit_code == ExitCode.REFUSED


@SQLITE
def test_events_are_followed_until_an_interrupt_that_tells_how_to_go_on(served):
    register(served, "a1")
    process = served.start("events", "-f", "-n", "1", "--type", "package.*", "--json")
    first = json.loads(process.stdout.readline())
    register(served, "a2")

    second = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert [first["subject"]["name"], second["subject"]["name"]] == ["a1", "a2"]
    assert process.returncode == ExitCode.INTERRUPTED
    # One that may have been shown already is shown again.
    assert re.search(rb"Interrupted: go on with: pkgctl events -f --since [23]$", errors, re.M)


# --- What is shown ---


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (event(), "registered hello 2.12.1"),
        (task("download", ended="queued"), "queued the download of hello 2.12.1"),
        (task("download"), "downloaded hello 2.12.1"),
        (task("index", "nixpkgs"), "indexed nixpkgs"),
        (task("apply", "team", "team"), "applied a set to the profile team"),
        (
            task("publish", "team", "team", ended="cancelled"),
            "cancelled the publishing of the profile team",
        ),
        (
            task("download", code="build_failed", ended="failed"),
            "had the download of hello 2.12.1 fail: build_failed: it did ... not build",
        ),
        (task("other"), "other of hello 2.12.1"),
        (
            change(3, "replace", [PACKAGE], [PACKAGE | {"version": "2.10.0"}]),
            "changed the profile team to generation 3: -hello 2.10.0, +hello 2.12.1 (replace)",
        ),
        (
            change(3, "switch"),
            "changed the profile team to generation 3: the same packages (switch)",
        ),
        (
            change(None, "delete", (), [PACKAGE]),
            "changed the profile team to nothing: -hello 2.12.1 (delete)",
        ),
        (
            event("profile.removed", ("profile", 2, "team")) | {"data": {}},
            "deleted the profile team",
        ),
        (event("token.revoked", ("token", 3, None), scope="read"), "revoked the token 3 (read)"),
        (
            event("catalog.added", ("catalog", 1, "lts"), url="u", revision=None),
            "added the catalog lts (of no known revision)",
        ),
        (
            event("machine.failed", ("machine", 1, "web"), error="no\nroom"),
            "had the machine web fail: no ... room",
        ),
        (
            event("machine.failed", ("machine", 1, "web"), error=None),
            "had the machine web fail: no reason is known",
        ),
        (
            event("webhook.disabled", ("webhook", 4, None), url="https://x/", reason="gone"),
            "disabled the webhook 4 (https://x/): gone",
        ),
        (event("moon.risen", ("moon", 1, None)), "moon.risen: moon 1"),
    ],
)
def test_an_event_is_a_sentence(told, expected):
    assert sentence(told) == expected


@pytest.fixture
def shown(unconfigured):
    """Return a function that lists events that a server answers with, and returns the lines."""

    def shown(*events, **more):
        with FakeServer(lambda *_: FakeAnswer(list(events))) as server:
            return unconfigured("events", "--url", server.url, **more).stdout.splitlines()

    return shown


@pytest.mark.parametrize(
    ("by", "who"),
    [
        (CI, "ci"),
        (CI | {"name": None}, "token 3"),
        ({"kind": "host", "id": None, "name": "alice"}, "alice"),
        ({"kind": "host", "id": None, "name": None}, "host"),
        ({"kind": "service", "id": None, "name": None}, "pkgd"),
    ],
)
def test_who_did_it_is_shown(shown, by, who):
    assert shown(event(by=by))[0].split("\t")[3] == who


def test_hostile_texts_control_no_terminal(shown):
    hostile = "\x1b[31m\u202ered\n\t"

    [line] = shown(event("token.minted", ("token", 3, hostile), CI | {"name": hostile}, scope="a"))

    assert line.split("\t")[3:] == ["?[31m?red??", "minted the token ?[31m?red?? (a)"]


def test_on_a_terminal_the_time_is_the_local_one(unconfigured):
    with FakeServer(lambda *_: FakeAnswer([event()])) as server:
        terminal = unconfigured.terminal("events", "--url", server.url)
        assert terminal.close() == 0

    assert terminal.shown.strip().endswith("ci registered hello 2.12.1")
    assert terminal.shown[:13] in ("2026-01-01 00", "2025-12-31 23")


# --- Servers ---


def test_an_outage_of_the_server_is_waited_for(unconfigured):
    answers = [*(3 * [FakeAnswer([])]), None, FakeAnswer([event(seq=18)])]
    with FakeServer(lambda *_: answers.pop(0) if answers else FakeAnswer([])) as server:
        done = unconfigured("events", "-f", "--timeout", "1.2s", "--url", server.url)

    assert "registered hello 2.12.1" in done.stdout
    assert "; trying again" in done.stderr
    assert done.exit_code == ExitCode.TIMED_OUT
    assert f"go on with: pkgctl events -f --since 18 --url {server.url}" in done.stderr


def test_a_server_of_an_older_release_is_told(unconfigured):
    answer = problem(404, "there is no such path")
    with FakeServer(lambda *_: answer) as server:
        done = unconfigured("events", "--url", server.url)

    assert "older release, which can't tell what happened" in done.stderr
