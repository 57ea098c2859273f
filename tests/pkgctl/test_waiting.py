"""pkgctl while it waits: the bar, interrupts, time-outs, and servers that go away."""

import json
import signal
import threading
from itertools import chain, count, repeat

import pytest
from harness import PATIENCE, TASK_ID, Answer, Ctl, Liar, problem, served, task
from support import until

from pkgctl import client as pkgctl_client
from pkgctl.client import Exit
from pkgctl.tasks import interrupts

GATED = "café [bold]one[/bold]"
LOG = Answer(b"log\n", headers={"X-Next-Offset": "4"})


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A server that the tests of this module share."""
    with served(tmp_path_factory.mktemp("waiting"), store_dir) as service:
        yield service


@pytest.fixture
def ctl(service, tmp_path):
    """Pkgctl, with the server and an admin's token in its environment."""
    return Ctl(tmp_path, service.url, service.secret)


numbers = count()


@pytest.fixture
def gated(service):
    """A package that nobody has built, and whose build waits for its gate to open."""
    number = next(numbers)

    class Gated:
        name = f"gated{number}"
        wanted = f"{name}@1.0.0"

        def open(self):
            (service.gates / str(number)).touch()

        def task_id(self):
            packages = service.get(f"packages?name={self.name}")
            return packages and packages[0]["task"] and packages[0]["task"]["id"]

        def has_begun(self):
            return (task_id := self.task_id()) and GATED.encode() in service.task_log(task_id)

    yield Gated()
    (service.gates / str(number)).touch()


def find(answers, path):
    """Return the first answer whose key is in the path."""
    return next((answer for part, answer in answers.items() if part in path), None)


# --- on a terminal ---


def test_a_terminal_shows_a_bar_with_the_latest_line_and_ends_with_the_program(ctl, gated):
    terminal = ctl.terminal("install", gated.wanted)
    terminal.until("building 0/1")
    terminal.until(GATED)
    gated.open()

    assert terminal.close() == 0
    assert "━━━" in terminal.shown
    last = terminal.shown.split("Success: Activated package v1.0.0")[-1]
    assert f"-{gated.name}-1.0.0/bin/{gated.name}" in last.replace("\r\n", "")


def test_a_terminal_shows_the_whole_log_above_the_bar_when_asked_to(ctl, gated):
    terminal = ctl.terminal("install", gated.wanted, "--follow")
    terminal.until(f"{GATED}\r\n")
    gated.open()

    assert terminal.close() == 0
    assert "two\r\n" in terminal.shown


def test_a_terminal_that_can_draw_nothing_gets_lines(ctl, gated):
    ctl.environ["TERM"] = "dumb"
    gated.open()
    terminal = ctl.terminal("install", gated.wanted, "--follow")

    assert terminal.close() == 0
    assert f"{GATED}\r\n" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_with_json_the_bar_leaves_the_output_to_the_document(ctl, gated, tmp_path):
    with (tmp_path / "output").open("w") as output:
        terminal = ctl.terminal("install", gated.wanted, "--json", stdout=output)
        terminal.until(GATED)
        gated.open()

        assert terminal.close() == 0
    assert json.loads((tmp_path / "output").read_text())["status"] == "activated"


def test_tables_on_a_terminal_have_headers_and_whole_ids(ctl, gated):
    gated.open()
    task_id = json.loads(ctl("install", gated.wanted, "--json").stdout)["task"]["id"]
    ctl.environ["COLUMNS"] = "40"

    terminal = ctl.terminal("tasks", "-n", 1)

    assert terminal.close() == 0
    assert "STATUS" in terminal.shown
    assert task_id in terminal.shown


def test_the_fields_of_one_thing_are_labelled_on_a_terminal(ctl, gated):
    ctl("create", gated.wanted)

    terminal = ctl.terminal("show", gated.wanted)

    assert terminal.close() == 0
    assert f"NAME:          {gated.name}\r\n" in terminal.shown


# --- interrupts and time-outs ---


def test_an_interrupt_detaches_and_says_how_to_come_back(ctl, gated):
    waiting = ctl.start(
        "install", gated.wanted, "--no-activate", "--url", ctl.environ["PKGCTL_URL"]
    )
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate()

    back = f"pkgctl install {gated.wanted} --no-activate --url {ctl.environ['PKGCTL_URL']}"
    assert waiting.returncode == Exit.INTERRUPTED
    assert errors.decode() == f"Interrupted: the task goes on; come back with: {back}\n"
    gated.open()
    assert ctl.run(*back.split()[1:])[0] == 0


def test_a_stop_ends_the_bar_as_an_interrupt_does(ctl, gated):
    terminal = ctl.terminal("install", gated.wanted)
    terminal.until(GATED)
    terminal.process.send_signal(signal.SIGTERM)

    assert terminal.close() == Exit.INTERRUPTED
    assert "\x1b[?25h" in terminal.shown  # the cursor is there again
    assert "\r\nInterrupted: the task goes on" in terminal.shown


def test_an_interrupt_cancels_when_asked_to(ctl, gated, service):
    waiting = ctl.start("install", gated.wanted, "--cancel-on-interrupt")
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)
    _, errors = waiting.communicate()

    assert (waiting.returncode, errors) == (Exit.CANCELLED, b"Error: the task was cancelled\n")
    assert service.task(gated.task_id())["status"] == "cancelled"


def test_an_interrupt_while_nothing_is_waited_for_ends_with_a_line(ctl):
    gate = threading.Event()
    with Liar(lambda *_: gate.wait(PATIENCE) and None) as liar:
        process = ctl.start("list", "--url", liar.url)
        until(lambda: liar.asked)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        gate.set()

    assert (process.returncode, errors) == (Exit.INTERRUPTED, b"Interrupted\n")


@pytest.mark.parametrize(
    ("cancelled", "after", "code", "said"),
    [
        (problem(409, "has ended"), "succeeded", Exit.INTERRUPTED, "Interrupted, but the task had"),
        (problem(409, "has ended"), "cancelled", Exit.CANCELLED, "Error: the task was cancelled"),
        (problem(403, "needs scope operate"), "running", Exit.NOT_ALLOWED, "Error: needs scope"),
    ],
)
def test_a_cancellation_that_is_refused_is_told(ctl, cancelled, after, code, said):
    def answer(method, path):
        if method == "POST":
            return cancelled if "cancel" in path else Answer({"status": "created", "task_id": "x"})
        if "/package/" in path:
            return Answer({"id": 1, "name": "hello", "version": "1.0.0"})
        return Answer(task(after if liar.was_asked("/cancel") else "running"))

    with Liar(answer) as liar:
        waiting = ctl.start("download", 1, "--wait", "--cancel-on-interrupt", "--url", liar.url)
        until(lambda: liar.was_asked("/task/"))
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate()

    assert (waiting.returncode, errors.decode().startswith(said)) == (code, True), errors


def test_a_second_interrupt_does_not_wait_for_the_cancellation(ctl, gated):
    stubborn = Answer(task())
    answers = {"/download": Answer({"status": "created", "task_id": TASK_ID})}
    answers |= {"/package/": Answer({"id": 1, "name": "hello", "version": "1.0.0"})}
    with Liar(lambda _, path: find(answers, path) or stubborn) as liar:
        waiting = ctl.start("download", 1, "--wait", "--cancel-on-interrupt", "--url", liar.url)
        for path in ("/task/", "/cancel"):
            until(lambda path=path: liar.was_asked(path))
            waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate()

    assert waiting.returncode == Exit.INTERRUPTED
    assert errors.startswith(b"Interrupted: the task goes on; come back with: ")


def test_an_interrupt_that_was_lost_on_its_way_still_counts(ctl):
    with pytest.raises(KeyboardInterrupt):
        interrupts.take(signal.SIGINT, None)

    with Liar(lambda *_: Answer(task())) as liar:
        done = ctl("logs", "-f", TASK_ID, "--url", liar.url)

    assert (done.exit_code, liar.asked) == (Exit.INTERRUPTED, [])


def test_the_time_to_wait_ends_without_success(ctl, gated):
    ctl("create", gated.wanted)

    done = ctl("download", gated.wanted, "--wait", "--timeout", "0s")

    assert done.exit_code == Exit.TIMED_OUT
    assert f"come back with: pkgctl download {gated.wanted} --wait)" in done.stderr


# --- a server that goes away ---


def test_a_server_that_is_killed_and_started_again_is_waited_for(ctl, gated, service):
    waiting = ctl.start("install", gated.wanted)
    until(gated.has_begun)
    service.kill()
    assert b"can't reach" in waiting.stderr.readline()
    gated.open()
    service.start()
    output, errors = waiting.communicate()

    assert (waiting.returncode, errors) == (0, b"")
    assert b"Success: Activated package v1.0.0\n" in output


def test_a_server_that_is_not_there_at_first_ends_the_command_at_once(ctl):
    code, output, errors = ctl.run("install", "hello@2.12.1", "--url", "http://127.0.0.1:1")

    assert (code, output, errors.count("\n")) == (Exit.UNREACHABLE, "", 1)
    assert errors.startswith("Error: can't reach http://127.0.0.1:1: Connection refused (")


GONE = [
    None,
    Answer("bad gateway", 502, is_pkgd=False),
    problem(503, "the database can't be used at the moment; try again"),
    Answer("gateway timeout", 504, is_pkgd=False),
    Answer(b"<html>we are back soon</html>", is_pkgd=False),
]


def test_trouble_on_the_way_is_ridden_out_and_told_once(ctl, monkeypatch):
    monkeypatch.setattr(pkgctl_client, "PAUSE_SECONDS", 0)
    answers = iter([Answer(task()), LOG, *GONE, Answer(task("succeeded")), *GONE[::-1], LOG])
    with Liar(lambda *_: next(answers)) as liar:
        done = ctl("logs", "-f", TASK_ID, "--url", liar.url)

    assert (done.exit_code, done.stdout) == (0, "log\n" * 2)
    assert done.stderr.splitlines() == [
        f"can't reach {liar.url}: the connection was lost; trying again",
        f"{liar.url} answers, but not as pkgd does; trying again",
    ]


def test_trouble_before_the_waiting_is_ridden_out_too(ctl):
    package = Answer({"id": 1, "name": "hello", "version": "1.0.0"})
    answers = iter([package, None, Answer({"status": "downloaded", "task_id": None}), package])
    with Liar(lambda *_: next(answers)) as liar:
        done = ctl("download", 1, "--wait", "--url", liar.url)

    assert (done.exit_code, done.stdout) == (0, "Success: Downloaded hello 1.0.0\n")
    assert done.stderr == f"can't reach {liar.url}: the connection was lost; trying again\n"


def test_trouble_that_lasts_ends_the_waiting(ctl):
    answers = chain([Answer(task())], repeat(problem(503, "try again")))
    with Liar(lambda *_: next(answers)) as liar:
        done = ctl("logs", "-f", TASK_ID, "--url", liar.url, "--patience", 0)

    assert (done.exit_code, done.stderr) == (Exit.UNREACHABLE, "Error: try again\n")


def test_a_terminal_shows_that_the_server_is_away(ctl):
    answers = iter([Answer(task()), LOG, None, Answer(task("succeeded")), LOG])
    with Liar(lambda *_: next(answers)) as liar:
        terminal = ctl.terminal("logs", "-f", TASK_ID, "--url", liar.url)

        assert terminal.close() == 0
    assert "reconnecting" in terminal.shown
    assert f"can't reach {liar.url}: the connection was lost" in terminal.shown


# --- logs ---


def test_a_log_is_followed_from_one_attempt_to_the_next(ctl):
    pieces = iter([b"first", b" attempt\n", b"second\n", b"third"])
    tasks = iter([task(), task("succeeded", attempt=3)])

    def answer(_, path):
        if "/log" not in path:
            return Answer(next(tasks))
        return Answer(next(pieces), headers={"X-Next-Offset": "9"})

    with Liar(answer) as liar:
        done = ctl("logs", "-f", TASK_ID, "--url", liar.url)

    assert done.stdout == "first attempt\nsecond\nthird"
    asked = [path.partition("?")[2] for _, path, _ in liar.asked if "/log" in path]
    assert asked == [f"attempt={n}&offset={o}" for n, o in [(1, 0), (1, 9), (2, 0), (3, 0)]]


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_log_can_not_control_the_terminal(ctl, follow):
    log = Answer(b"\x1b]0;evil\x07\tcaf\xc3\xa9 \xff [red]", headers={"X-Next-Offset": "9"})
    ended = Answer(task("succeeded"))
    with Liar(lambda _, path: log if "/log" in path else ended) as liar:
        terminal = ctl.terminal("logs", *follow, TASK_ID, "--url", liar.url)

        assert terminal.close() == 0
    assert "?]0;evil?" in terminal.shown
    assert "café \ufffd [red]" in terminal.shown
    assert "\x1b]0" not in terminal.shown


def test_a_quiet_log_leaves_the_latest_line_alone(ctl, gated):
    answers = {"/log": Answer(b"\n\n", headers={"X-Next-Offset": "2"})}
    answers |= {"/download": Answer({"status": "created", "task_id": TASK_ID})}
    answers |= {"/package/": Answer({"id": 1, "name": "[red]", "version": "1.0.0"})}
    with Liar(lambda _, path: find(answers, path) or Answer(task("succeeded"))) as liar:
        terminal = ctl.terminal("download", 1, "--wait", "--url", liar.url)

        assert terminal.close() == 0
    assert "Success: Downloaded [red] 1.0.0" in terminal.shown
