"""The journal: what becomes of each kind of line that nix-build writes."""

import json

import pytest

from nix.internal_json import BuildFailed, HashMismatch, Journal, Progress
from nix.process import TimedOut

DRV = "/nix/store/0c000000000000000000000000000000-thing-1.0.drv"


def line(action, **event):
    """Return an event as nix-build writes it."""
    return b"@nix " + json.dumps({"action": action, **event}).encode()


def start(number, kind, text="", fields=(), level=3):
    """Return the line that begins an activity."""
    return line("start", id=number, type=kind, text=text, fields=fields, level=level)


def said(journal, *lines):
    """Return what the lines add to the log."""
    return journal.read(lines).decode().splitlines()


@pytest.fixture
def journal():
    """A journal with nothing in it."""
    return Journal()


def test_plain_lines_and_warnings_are_in_the_log(journal):
    warning = line("msg", level=1, msg="\x1b[35;1mwarning:\x1b[0m careful")

    assert said(journal, b"plain \xff", warning) == [
        "plain \N{REPLACEMENT CHARACTER}",
        "warning: careful",
    ]


@pytest.mark.parametrize(
    "chatter",
    [
        line("msg", level=3, msg="this derivation will be built:"),
        start(1, 0, "connecting", level=4),
    ],
)
def test_chatter_is_not_in_the_log(journal, chatter):
    assert said(journal, chatter) == []


@pytest.mark.parametrize(
    "odd",
    [
        b"@nix ",
        b"@nix {",
        b"@nix \xff",
        b"@nix []",
        b"@nix {}",
        line("dance"),
        line("msg"),
        line("msg", level="1", msg="x"),
        line("msg", level=0, msg=None),
        line("start", id=[], type=105, text="x", fields=["x"]),
        line("start", id=1, type=105, text="x", fields=[], level=3),
        line("stop"),
        line("result", id=1, type=101, fields=[]),
        line("result", id=1, type=101, fields=[1]),
        line("result", id=1, type=[]),
        line("result", id=1, type=106, fields=[105, 3]),
        line("result", id=1, type=105, fields=[3, 4, 0, 0]),
    ],
)
def test_a_line_that_makes_no_sense_is_passed_over(journal, odd):
    assert said(journal, odd) == []
    assert journal.progress == Progress(0, 0, "fetching")


@pytest.mark.parametrize("fields", [[], [1], ["x", 2], [None, 2]])
def test_a_count_that_makes_no_sense_is_passed_over(journal, fields):
    said(journal, start(1, 104), line("result", id=1, type=105, fields=fields))

    assert journal.progress == Progress(0, 0, "fetching")


def test_the_log_of_a_hook_is_in_the_log(journal):
    assert said(journal, line("result", id=1, type=107, fields=["uploading"])) == ["uploading"]


def test_the_progress_is_of_builds_and_copies_together(journal):
    said(journal, start(1, 104), start(2, 103))
    said(journal, line("result", id=1, type=105, fields=[1, 4, 1, 0]))
    said(journal, line("result", id=2, type=105, fields=[2, 3, 1, 0]))

    assert (journal.progress.done, journal.progress.expected) == (3, 7)


def test_the_counts_that_a_remote_builder_relays_are_not_added(journal):
    said(journal, start(1, 104), start(7, 104))
    said(journal, line("result", id=1, type=105, fields=[1, 4, 1, 0]))
    said(journal, line("result", id=7, type=105, fields=[0, 9, 1, 0]))

    assert (journal.progress.done, journal.progress.expected) == (1, 4)


def test_the_phase_is_that_of_the_running_activities(journal):
    phases = []
    for event in (
        start(1, 105, fields=[DRV]),
        start(2, 100),
        line("stop", id=1),
        line("stop", id=2),
    ):
        said(journal, event)
        phases.append(journal.progress.phase)

    assert phases == ["building", "building", "fetching", "fetching"]


def error(text):
    """Return the line with which nix-build reports an error."""
    return line("msg", level=0, msg=f"\x1b[31;1merror:\x1b[0m {text}")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (1, "building of 'x' timed out after 3 seconds", TimedOut),
        (1, "building of 'x' timed out after 3 seconds of silence", TimedOut),
        (1, "hash mismatch in fixed-output derivation 'x'", HashMismatch),
        (1, "a 'vax' is required to build 'x'", BuildFailed),
        (100, "builder said: timed out after 3 seconds; hash mismatch in x", BuildFailed),
    ],
)
def test_a_failure_is_told_by_code_and_message(journal, code, text, kind):
    said(journal, error(text))

    assert type(journal.failure(code)) is kind


def test_a_failure_quotes_the_lines_of_the_build_that_failed(journal):
    said(journal, start(1, 105, fields=[DRV]), start(2, 105, fields=["/other.drv"]))
    said(journal, line("result", id=1, type=101, fields=["mine"]))
    said(journal, line("result", id=2, type=101, fields=["its"]), error(f"'{DRV}' failed"))

    assert str(journal.failure(100)) == f"'{DRV}' failed\n> mine"


def test_a_build_without_a_store_name_is_named_as_it_is(journal):
    said(journal, start(1, 105, fields=["odd"]), start(2, 105, "building"))

    assert said(journal, line("result", id=1, type=101, fields=["x"]))[-2:] == ["odd>", "x"]
