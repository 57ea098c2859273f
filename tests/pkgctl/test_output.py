"""How pkgctl shows tasks, tables and other people's text."""

import json

import pytest
from harness import (
    GATED_LINE,
    PACKAGE,
    SCHEDULED,
    TASK_ID,
    FakeAnswer,
    FakeServer,
    log_answer,
    task_answer,
    task_document,
)
from support import until

from pkgctl.output import stage

ONE_OF_THREE = {"done": 1, "expected": 3}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (task_document("queued"), "queued"),
        (task_document("queued", waiting="the disk is full"), "queued, the disk is full"),
        (task_document("running"), "running"),
        (task_document(progress=ONE_OF_THREE | {"phase": "building"}), "building 1/3"),
        (task_document("running", attempt=2), "running (attempt 2)"),
        (task_document("failed", progress=ONE_OF_THREE | {"phase": None}), "failed"),
    ],
)
def test_a_stage_is_described_in_a_few_words(task, text):
    assert stage(task) == text


def test_a_terminal_shows_a_bar_with_the_latest_log_line_and_then_the_program(ctl, gated):
    terminal = ctl.terminal("install", gated.spec)
    terminal.until("building 0/1")
    terminal.until(GATED_LINE)
    gated.open()

    assert terminal.close() == 0
    assert "━━━" in terminal.shown
    last = terminal.shown.split(f"Success: Activated {gated.name} 1.0.0\r\n")[-1]
    assert f"/data/profile/bin/{gated.name}\r\n" in last


def test_a_terminal_shows_the_whole_log_above_the_bar_with_follow(ctl, gated):
    terminal = ctl.terminal("install", gated.spec, "--follow")
    terminal.until(f"{GATED_LINE}\r\n")
    gated.open()

    assert terminal.close() == 0
    assert "two\r\n" in terminal.shown


def test_a_long_log_line_is_left_to_the_terminal_to_wrap(unconfigured):
    log, ended = log_answer(b"x" * 300), task_answer("succeeded")
    with FakeServer(lambda _, path: log if "/log" in path else ended) as server:
        terminal = unconfigured.terminal("logs", "-f", TASK_ID, "--url", server.url)

        assert terminal.close() == 0
    assert "x" * 300 in terminal.shown


def test_a_dumb_terminal_gets_lines(ctl, gated):
    ctl.environ["TERM"] = "dumb"
    gated.open()
    terminal = ctl.terminal("install", gated.spec, "--follow")

    assert terminal.close() == 0
    assert f"{GATED_LINE}\r\n" in terminal.shown
    assert "\x1b" not in terminal.shown


def test_with_json_the_bar_is_not_on_the_standard_output(ctl, gated, tmp_path):
    with (tmp_path / "output").open("w") as output:
        terminal = ctl.terminal("install", gated.spec, "--json", stdout=output)
        terminal.until(GATED_LINE)
        gated.open()

        assert terminal.close() == 0
    assert json.loads((tmp_path / "output").read_text())["status"] == "activated"


def test_blank_log_lines_do_not_replace_the_latest_line(unconfigured):
    phase, log = "first", b"compiling\n"

    def answer(_, path):
        if "/task/" not in path:
            return SCHEDULED if "/download" in path else PACKAGE
        if "/log" in path:
            return log_answer(log)
        return task_answer(progress=ONE_OF_THREE | {"phase": phase})

    with FakeServer(answer) as server:
        terminal = unconfigured.terminal("download", 1, "--wait", "--url", server.url)
        terminal.until("compiling")
        log, answered = b"\n\n", server.count("/log")
        until(lambda: server.count("/log") > answered + 1)
        phase = "second"
        terminal.until("second 1/3")
        terminal.process.terminate()
        terminal.close()

    assert "compiling" in terminal.shown.rpartition("second 1/3")[2]


def test_tables_on_a_terminal_have_headers_and_short_ids(ctl, gated, install):
    gated.open()
    task_id = install(gated.spec)["task"]["id"]
    ctl.environ["COLUMNS"] = "40"

    terminal = ctl.terminal("tasks", "-n", 1)

    assert terminal.close() == 0
    assert "STATUS" in terminal.shown
    assert f"{task_id[:8]}  " in terminal.shown


def test_the_fields_of_a_record_are_labelled_on_a_terminal(ctl, gated):
    ctl("create", gated.spec)

    terminal = ctl.terminal("show", gated.spec)

    assert terminal.close() == 0
    assert f"NAME:          {gated.name}\r\n" in terminal.shown


def test_a_table_can_not_control_a_terminal(unconfigured):
    name = "evil\u009b31m\u202e[bold]x[/bold]:smile:"
    package = {"id": 1, "name": name, "version": "1.0.0", "status": "created", "task": None}
    with FakeServer(lambda *_: FakeAnswer([package])) as server:
        terminal = unconfigured.terminal("list", "--url", server.url)

        assert terminal.close() == 0
    assert "evil?31m?[bold]x[/bold]:smile:" in terminal.shown


def test_a_name_with_brackets_is_no_markup_beside_the_bar(unconfigured):
    package = FakeAnswer({"id": 1, "name": "[red]", "version": "1.0.0"})
    answers = {"/log": log_answer(b""), "/download": SCHEDULED, "/package/": package}
    done = task_answer("succeeded")
    with FakeServer(
        lambda _, path: next((answers[part] for part in answers if part in path), done)
    ) as server:
        terminal = unconfigured.terminal("download", 1, "--wait", "--url", server.url)

        assert terminal.close() == 0
    assert "Success: Downloaded [red] 1.0.0" in terminal.shown


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_log_can_not_control_a_terminal(unconfigured, follow):
    log = log_answer(b"\x1b]0;evil\x07\tcaf\xc3\xa9 \xff [red]")
    ended = task_answer("succeeded")
    with FakeServer(lambda _, path: log if "/log" in path else ended) as server:
        terminal = unconfigured.terminal("logs", *follow, TASK_ID, "--url", server.url)

        assert terminal.close() == 0
    assert "?]0;evil?" in terminal.shown
    assert "café \ufffd [red]" in terminal.shown
    assert "\x1b]0" not in terminal.shown
