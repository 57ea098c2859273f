"""Waiting for a task: interrupts, time-outs, outages of the server, and followed logs."""

import signal
import threading
import time
from itertools import chain, repeat

import pytest
from harness import (
    MAX_SECONDS,
    PACKAGE,
    SCHEDULED,
    TASK_ID,
    FakeAnswer,
    FakeServer,
    finish,
    log_answer,
    problem,
    task_answer,
    task_document,
)
from support import until

from pkgctl import client
from pkgctl.errors import CommandError, ExitCode
from pkgctl.waiting import END_OF_LOG, LogReader, check_success, interrupts

LOG = log_answer(b"log\n")


def log_queries(server):
    """Return the queries of the requests for a log."""
    return [path.partition("?")[2] for _, path, _ in server.requests if "/log" in path]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("build_failed", ExitCode.FAILED),
        ("lost", ExitCode.FAILED),
        ("timed_out", ExitCode.TIMED_OUT),
        ("name_unknown", ExitCode.NOT_FOUND),
    ],
)
def test_the_error_of_a_task_determines_the_exit_code(code, exit_code):
    error = {"code": code, "message": "it failed:\n> because", "hint": "do this"}

    with pytest.raises(CommandError, match=r"^it failed \.\.\. > because \(do this") as raised:
        check_success(task_document("failed", error=error))

    assert raised.value.exit_code == exit_code


# --- interrupts and time-outs ---


def test_an_interrupt_detaches_and_prints_the_command_that_resumes(ctl, gated):
    url = ctl.environ["PKGCTL_URL"]
    waiting = ctl.start("install", gated.spec, "--no-activate", "--url", url)
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)
    exit_code, _, errors = finish(waiting)

    resume = f"pkgctl install {gated.spec} --no-activate --url {url}"
    assert exit_code == ExitCode.INTERRUPTED
    assert errors == f"Interrupted: the task goes on; come back with: {resume}\n"
    gated.open()
    assert ctl.run(*resume.split()[1:])[0] == 0


def test_sigterm_removes_the_bar_as_an_interrupt_does(ctl, gated):
    terminal = ctl.terminal("install", gated.spec)
    terminal.until("building 0/1")
    terminal.process.send_signal(signal.SIGTERM)

    assert terminal.close() == ExitCode.INTERRUPTED
    assert "\x1b[2K" in terminal.shown.rpartition("━━━")[2]  # erases a line
    assert "\x1b[?25h" in terminal.shown  # shows the cursor
    assert "\r\nInterrupted: the task goes on" in terminal.shown


def test_an_interrupt_cancels_with_cancel_on_interrupt(ctl, gated, service):
    waiting = ctl.start("install", gated.spec, "--cancel-on-interrupt")
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)
    exit_code, _, errors = finish(waiting)

    assert (exit_code, errors) == (ExitCode.CANCELLED, "Error: the task was cancelled\n")
    assert service.task(gated.task_id())["status"] == "cancelled"


def test_an_interrupt_of_a_command_that_does_not_wait_is_reported(unconfigured):
    gate = threading.Event()
    with FakeServer(lambda *_: gate.wait(MAX_SECONDS) and None) as server:
        process = unconfigured.start("list", "--url", server.url)
        until(lambda: server.requests)
        process.send_signal(signal.SIGINT)
        exit_code, _, errors = finish(process)
        gate.set()

    assert (exit_code, errors) == (ExitCode.INTERRUPTED, "Interrupted\n")


def download_answers(task, cancellation=None, package=lambda: PACKAGE):
    """Return an answer function; `task` and `package` are called when these are requested."""

    def answer(method, path):
        if method == "POST":
            return cancellation if "/cancel" in path else SCHEDULED
        return package() if "/package/" in path else task()

    return answer


@pytest.mark.parametrize(
    ("cancellation", "status", "exit_code", "message"),
    [
        (
            problem(409, "has ended"),
            "succeeded",
            ExitCode.INTERRUPTED,
            "Interrupted, but the task had",
        ),
        (
            problem(409, "has ended"),
            "cancelled",
            ExitCode.CANCELLED,
            "Error: the task was cancelled",
        ),
        (
            problem(403, "needs scope operate"),
            "running",
            ExitCode.NOT_ALLOWED,
            "Error: needs scope",
        ),
    ],
)
def test_a_refused_cancellation_is_reported(unconfigured, cancellation, status, exit_code, message):
    def task():
        return task_answer(status if server.count("/cancel") else "running")

    with FakeServer(download_answers(task, cancellation)) as server:
        options = ("--wait", "--cancel-on-interrupt", "--url", server.url)
        waiting = unconfigured.start("download", 1, *options)
        until(lambda: server.count("/task/"))
        waiting.send_signal(signal.SIGINT)
        code, _, errors = finish(waiting)

    assert (code, errors.startswith(message)) == (exit_code, True), errors


def test_a_second_interrupt_does_not_wait_for_the_cancellation(unconfigured):
    with FakeServer(download_answers(task_answer, task_answer())) as server:
        options = ("--wait", "--cancel-on-interrupt", "--url", server.url)
        waiting = unconfigured.start("download", 1, *options)
        for path in ("/task/", "/cancel"):
            until(lambda path=path: server.count(path))
            waiting.send_signal(signal.SIGINT)
        exit_code, _, errors = finish(waiting)

    assert exit_code == ExitCode.INTERRUPTED
    assert errors.startswith("Interrupted: the task goes on; come back with: ")


def test_an_interrupt_that_a_finalizer_discarded_still_counts(unconfigured):
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(signal.SIGINT, None)

    with FakeServer(lambda *_: task_answer()) as server:
        done = unconfigured("logs", "-f", TASK_ID, "--url", server.url)

    assert (done.exit_code, server.requests) == (ExitCode.INTERRUPTED, [])


@pytest.mark.parametrize(
    "task",
    [
        task_document("queued", progress={"done": 0, "expected": 0, "phase": "publishing"}),
        task_document("failed", error={"code": "publish_failed", "message": "no", "hint": "no"}),
    ],
)
def test_who_waits_for_a_package_does_not_wait_for_its_publishing(unconfigured, task):
    with FakeServer(download_answers(lambda: FakeAnswer(task))) as server:
        done = unconfigured("download", 1, "--wait", "--url", server.url)

    assert done.exit_code == 0, done.output


def test_the_waiting_ends_at_the_timeout(ctl, gated):
    ctl("create", gated.spec)

    done = ctl("download", gated.spec, "--wait", "--timeout", "0s")

    assert done.exit_code == ExitCode.TIMED_OUT
    assert f"come back with: pkgctl download {gated.spec} --wait)" in done.stderr


def test_a_server_that_answers_at_once_is_polled_twice_a_second(unconfigured):
    with FakeServer(lambda _, path: LOG if "/log" in path else task_answer()) as server:
        done = unconfigured("logs", "-f", TASK_ID, "--timeout", "0.9s", "--url", server.url)

    assert done.exit_code == ExitCode.TIMED_OUT
    assert 2 <= server.count("/log") <= 3


# --- outages ---


def test_a_server_that_is_killed_and_started_again_is_waited_for(ctl, gated, service):
    waiting = ctl.start("install", gated.spec)
    until(gated.has_begun)
    service.kill()
    assert b"can't reach" in waiting.stderr.readline()
    gated.open()
    service.start()
    exit_code, output, errors = finish(waiting)

    assert (exit_code, errors) == (0, "")
    assert f"Success: Activated {gated.name} 1.0.0\n" in output


OUTAGES = [
    None,
    FakeAnswer("bad gateway", 502, is_pkgd=False),
    problem(503, "the database can't be used at the moment; try again"),
    FakeAnswer("gateway timeout", 504, is_pkgd=False),
    FakeAnswer(b"<html>we are back soon</html>", is_pkgd=False),
]


def test_each_outage_is_ridden_out_and_reported_once(unconfigured, monkeypatch):
    monkeypatch.setattr(client, "RETRY_SECONDS", 0)
    running, ended = task_answer(), task_answer("succeeded")
    answers = iter([running, LOG, *OUTAGES, ended, *OUTAGES[::-1], LOG])
    with FakeServer(lambda *_: next(answers)) as server:
        done = unconfigured("logs", "-f", TASK_ID, "--url", server.url)

    assert (done.exit_code, done.stdout) == (0, "log\n" * 2)
    assert done.stderr.splitlines() == [
        f"can't reach {server.url}: the connection was lost; trying again",
        f"{server.url} answers, but not as pkgd does; trying again",
    ]


def test_an_outage_before_the_waiting_is_ridden_out_too(unconfigured):
    downloaded = FakeAnswer({"status": "downloaded", "task_id": None})
    answers = iter([PACKAGE, None, downloaded, PACKAGE])
    with FakeServer(lambda *_: next(answers)) as server:
        done = unconfigured("download", 1, "--wait", "--url", server.url)

    assert (done.exit_code, done.stdout) == (0, "Success: Downloaded hello 1.0.0\n")
    assert done.stderr == f"can't reach {server.url}: the connection was lost; trying again\n"


@pytest.mark.parametrize(("patience", "reports"), [(0, 0), (0.1, 1)])
def test_an_outage_that_outlasts_the_patience_ends_the_waiting(
    unconfigured, monkeypatch, patience, reports
):
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.06)
    answers = chain([task_answer()], repeat(problem(503, "try later")))
    with FakeServer(lambda *_: next(answers)) as server:
        options = ("--url", server.url, "--patience", patience)
        done = unconfigured("logs", "-f", TASK_ID, *options)

    assert done.exit_code == ExitCode.UNREACHABLE
    assert done.stderr == "try later; trying again\n" * reports + "Error: try later\n"


def test_an_outage_does_not_prolong_the_timeout(unconfigured, monkeypatch):
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.06)
    answers = chain([task_answer(), LOG], repeat(problem(503, "try later")))
    with FakeServer(lambda *_: next(answers)) as server:
        started = time.monotonic()
        done = unconfigured("logs", "-f", TASK_ID, "--url", server.url, "--timeout", "1s")

    assert done.exit_code == ExitCode.UNREACHABLE
    assert time.monotonic() - started < 10


def test_an_outage_after_the_timeout_does_not_end_a_cancellation(unconfigured):
    after_cancellation = iter([None, task_answer("cancelled")])

    def task():
        if not server.count("/cancel"):
            return task_answer()
        time.sleep(1)
        return next(after_cancellation)

    with FakeServer(download_answers(task, task_answer())) as server:
        options = ("--wait", "--cancel-on-interrupt", "--timeout", "1s", "--url", server.url)
        waiting = unconfigured.start("download", 1, *options)
        until(lambda: server.count("/task/"))
        waiting.send_signal(signal.SIGINT)

        assert finish(waiting)[0] == ExitCode.CANCELLED


def test_the_timeout_does_not_limit_retries_after_the_waiting(unconfigured):
    after_waiting = iter([None, PACKAGE])

    def package():
        if not server.count("/task/"):
            return PACKAGE
        time.sleep(0.3)
        return next(after_waiting)

    def task():
        return task_answer("succeeded")

    with FakeServer(download_answers(task, package=package)) as server:
        done = unconfigured("download", 1, "--wait", "--timeout", "0.2s", "--url", server.url)

    assert done.exit_code == 0
    assert done.stdout.endswith("Success: Downloaded hello 1.0.0\n")


def test_a_terminal_shows_an_outage(unconfigured):
    answers = iter([task_answer(), LOG, None, task_answer("succeeded"), LOG])
    with FakeServer(lambda *_: next(answers)) as server:
        terminal = unconfigured.terminal("logs", "-f", TASK_ID, "--url", server.url)

        assert terminal.close() == 0
    assert "reconnecting" in terminal.shown
    assert f"can't reach {server.url}: the connection was lost" in terminal.shown


# --- logs ---


def test_a_log_that_is_not_wanted_whole_is_read_from_near_its_end():
    answer = FakeAnswer(b"the end\n", headers={"X-Next-Offset": "10000"})
    with FakeServer(lambda *_: answer) as server, client.Client(server.url) as api:
        data = LogReader(api, TASK_ID, whole=False).read(attempt=2)

    assert data == b"the end\n"
    assert log_queries(server) == [f"attempt=2&offset={END_OF_LOG}", "attempt=2&offset=7952"]


def test_a_log_is_followed_from_one_attempt_to_the_next(unconfigured):
    pieces = iter([b"first", b" attempt\n", b"second\n", b"third"])
    tasks = iter([task_answer(), task_answer("succeeded", attempt=3)])
    with FakeServer(
        lambda _, path: log_answer(next(pieces)) if "/log" in path else next(tasks)
    ) as server:
        done = unconfigured("logs", "-f", TASK_ID, "--url", server.url)

    assert done.stdout == "first attempt\nsecond\nthird"
    assert log_queries(server) == [
        f"attempt={n}&offset={o}" for n, o in [(1, 0), (1, 9), (2, 0), (3, 0)]
    ]
