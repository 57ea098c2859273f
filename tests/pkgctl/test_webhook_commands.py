"""The commands of webhooks, and what they make of a receiver's own words."""

import json

import pytest
from harness import FakeAnswer, FakeServer, problem

from pkgctl.errors import ExitCode

WHEN = "2026-01-01T00:00:00.000Z"
FAILED = {
    "at": WHEN,
    "type": "task.failed",
    "seq": 17,
    "attempt": 2,
    "succeeded": False,
    "status": 500,
    "error": "HTTP 500: \x1b[31mno\x1b[0m\n  room",
    "seconds": 0.25,
}
TESTED = FAILED | {"type": "webhook.test", "seq": None, "succeeded": True, "status": 204}
WEBHOOK = {
    "id": 1,
    "url": "https://example.org/hook",
    "types": ["task.*", "machine.failed"],
    "state": "failing",
    "created_at": WHEN,
    "delivered_seq": 16,
    "failures": 2,
    "failing_since": WHEN,
    "next_at": WHEN,
    "disabled_at": None,
    "disabled_reason": None,
}


@pytest.fixture
def answering(unconfigured):
    """Return a function that runs a command against one answer; it returns that and the request."""

    def answering(answer, *words, **more):
        with FakeServer(lambda *_: answer) as server:
            done = unconfigured(*words, "--url", server.url, **more)
        ((method, path, _),) = server.requests
        return done, (method, path.removeprefix("/api/v1/"), server.bodies[0])

    return answering


def test_webhooks_are_listed(answering):
    done, (_, path, _) = answering(FakeAnswer([WEBHOOK, WEBHOOK | {"types": []}]), "webhooks")

    assert path == "webhooks?limit=1000"
    rows = [line.split("\t")[1:4] for line in done.stdout.splitlines()]
    assert rows == [
        [WEBHOOK["url"], types, "failing"] for types in ("task.* machine.failed", "all")
    ]


@pytest.mark.parametrize("is_given", [False, True])
def test_a_webhook_is_added_and_its_secret_printed(answering, tmp_path, is_given):
    (tmp_path / "secret").write_text("whsec_given\n")
    given = ["--secret-file", str(tmp_path / "secret")] if is_given else []
    words = ("webhook", "add", WEBHOOK["url"], "--type", "task.*", *given)

    done, (method, path, body) = answering(FakeAnswer(WEBHOOK | {"secret": "whsec_made"}), *words)

    assert (method, path, done.stdout) == ("POST", "webhooks", "whsec_made\n")
    assert done.stderr == "Webhook 1 was added; its secret isn't shown again.\n"
    sent = {"url": WEBHOOK["url"], "types": ["task.*"]}
    assert json.loads(body) == sent | ({"secret": "whsec_given"} if is_given else {})


def test_a_webhook_is_shown_with_its_deliveries_and_no_terminal_is_controlled(answering):
    shown = WEBHOOK | {"deliveries": [FAILED] * 11}

    done, (_, path, _) = answering(FakeAnswer(shown), "webhook", "show", "1")

    assert path == "webhook/1"
    assert "state\tfailing\n" in done.stdout
    row = "2026-01-01T00:00:00Z\t17\ttask.failed\t2\tfailed\t500\t0.2\tHTTP 500: ?[31mno?[0m room\n"
    assert done.stdout.count(row) == 10
    assert "\x1b" not in done.stdout


def test_a_webhook_without_deliveries_is_shown_alone(answering):
    done, _ = answering(FakeAnswer(WEBHOOK | {"deliveries": []}), "webhook", "show", "1")

    assert done.stdout.endswith("reason\t-\n")


def test_a_test_tells_how_it_went(answering):
    done, (method, path, _) = answering(FakeAnswer(TESTED), "webhook", "test", "1")
    assert (method, path) == ("POST", "webhook/1/test")
    assert done.stdout == "Success: The receiver answered 204 after 0.2 s\n"

    done, _ = answering(FakeAnswer(FAILED), "webhook", "test", "1")
    assert (done.exit_code, done.stdout) == (ExitCode.REFUSED, "")
    assert done.stderr == "Error: the test failed: HTTP 500: ?[31mno?[0m ... room\n"


@pytest.mark.parametrize(
    ("words", "request_", "said"),
    [
        (["enable", "1"], ("POST", "webhook/1/enable", {}), "Enabled webhook 1"),
        (["enable", "1", "--from-now"], ("POST", "webhook/1/enable", {"from": "now"}), "Enabled"),
        (["remove", "1"], ("DELETE", "webhook/1", None), "Removed webhook 1"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_webhook_is_enabled_and_removed(answering, words, request_, said):
    done, (method, path, body) = answering(FakeAnswer(WEBHOOK), "webhook", *words)

    assert (method, path, json.loads(body) if body else None) == request_
    assert done.stdout.startswith(f"Success: {said}")


def test_a_server_that_knows_no_webhooks_is_told_to_be_too_old(answering):
    done, _ = answering(problem(404, "no such URL"), "webhooks")

    assert done.exit_code == ExitCode.REFUSED
    assert "the server is of an older release, which can't tell webhooks of events" in done.stderr
