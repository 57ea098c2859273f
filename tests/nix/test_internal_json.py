"""The reader of build logs: what each kind of line that nix-build writes results in."""

import json
import os

import pytest

from nix import BuildFailed, FetchFailed, HashMismatch, NixUnavailable, Progress, TimedOut
from nix.internal_json import BuildLogReader

DRV = "/nix/store/0c000000000000000000000000000000-thing-1.0.drv"


def line(action, **event):
    """Return an event as nix-build writes it."""
    return b"@nix " + json.dumps({"action": action, **event}).encode()


def start(number, kind, text="", fields=(), level=3):
    """Return the line that begins an activity."""
    return line("start", id=number, type=kind, text=text, fields=fields, level=level)


def read(reader, *lines):
    """Return what the lines add to the log."""
    return reader.read(lines).decode().splitlines()


@pytest.fixture
def reader():
    """A reader that has read nothing yet."""
    return BuildLogReader(DRV)


@pytest.mark.parametrize(
    "texts",
    [
        ["one", "", "three ~ [3]"],
        ["tab\t", "\u00e9", 'a "quote"', "back\\slash"],
        ["x" * 301, "y"],
        ["the last one", "\u202eturned"],
    ],
)
def test_log_lines_are_the_same_however_they_are_written(reader, texts):
    other = BuildLogReader(DRV)
    events = [{"action": "result", "fields": [text], "id": 7, "type": 101} for text in texts]
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    begun = [start(number, 105, fields=[f"/x/{number}"]) for number in (7, 8)]

    by_nix = [f"@nix {json.dumps(one, **compact)}".encode() for one in events]
    logs = [
        (read(each, *begun), read(each, *lines), each.quote("it failed"))
        for each, lines in ((reader, by_nix), (other, [line(**one) for one in events]))
    ]

    assert logs[0] == logs[1]
    assert logs[0][1][:2] == ["/x/7>", texts[0]]


def test_plain_lines_and_warnings_are_in_the_log(reader):
    warning = line("msg", level=1, msg="\x1b[35;1mwarning:\x1b[0m careful")

    assert read(reader, b"plain \xff", warning) == [
        "plain \N{REPLACEMENT CHARACTER}",
        "warning: careful",
    ]


@pytest.mark.parametrize(
    "detail",
    [
        line("msg", level=3, msg="this derivation will be built:"),
        start(1, 0, "connecting", level=4),
    ],
)
def test_details_are_not_in_the_log(reader, detail):
    assert read(reader, detail) == []


@pytest.mark.parametrize(
    "invalid",
    [
        b"@nix ",
        b"@nix {",
        b"@nix \xff",
        b"@nix []",
        b"@nix {}",
        b"@nix " + b"[" * 100_000,
        line("dance"),
        line(["start"]),
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
def test_an_invalid_event_is_ignored(reader, invalid):
    assert read(reader, invalid) == []
    assert reader.progress == Progress(0, 0, "fetching")


@pytest.mark.parametrize("fields", [[], [1], ["x", 2], [None, 2], [float("inf"), 2]])
def test_an_invalid_count_is_ignored(reader, fields):
    read(reader, start(1, 104), line("result", id=1, type=105, fields=fields))

    assert reader.progress == Progress(0, 0, "fetching")


@pytest.mark.parametrize(("given", "shown"), [(10**30, 10**9), (-1, 0)])
def test_a_count_always_fits_a_database(reader, given, shown):
    read(reader, start(1, 104), line("result", id=1, type=105, fields=[given, 1, 0, 0]))

    assert reader.progress.done == shown


def test_an_error_with_half_a_utf_16_pair_can_be_stored(reader):
    read(reader, line("msg", level=0, msg="error: half \ud800 a pair"))

    assert str(reader.failure(1)).encode() == b"half  a pair"


def test_a_fault_of_the_host_is_told_unless_a_builder_failed(reader):
    read(reader, line("msg", level=0, msg="error: unexpected end-of-file"))

    assert type(reader.failure(1)) is NixUnavailable
    assert type(reader.failure(100)) is BuildFailed
    read(reader, line("msg", level=0, msg=f"error: builder for '{DRV}' failed"))
    assert type(reader.failure(1)) is BuildFailed


def test_the_log_of_a_hook_is_in_the_log(reader):
    assert read(reader, line("result", id=1, type=107, fields=["uploading"])) == ["uploading"]


def test_the_progress_is_the_sum_of_builds_and_copies(reader):
    read(reader, start(1, 104), start(2, 103))
    read(reader, line("result", id=1, type=105, fields=[1, 4, 1, 0]))
    read(reader, line("result", id=2, type=105, fields=[2, 3, 1, 0]))

    assert (reader.progress.done, reader.progress.expected) == (3, 7)


def test_the_counts_of_a_remote_builder_are_not_added(reader):
    read(reader, start(1, 104), start(7, 104))
    read(reader, line("result", id=1, type=105, fields=[1, 4, 1, 0]))
    read(reader, line("result", id=7, type=105, fields=[0, 9, 1, 0]))

    assert (reader.progress.done, reader.progress.expected) == (1, 4)


def test_the_phase_follows_the_running_activities(reader):
    phases = []
    for event in (
        start(1, 105, fields=[DRV]),
        start(2, 100),
        line("stop", id=1),
        line("stop", id=2),
    ):
        read(reader, event)
        phases.append(reader.progress.phase)

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
def test_the_exit_code_and_the_message_determine_the_error(reader, code, text, kind):
    read(reader, error(text))

    assert type(reader.failure(code)) is kind


def test_an_error_quotes_the_log_of_the_build_it_names(reader):
    read(reader, start(1, 105, fields=[DRV]), start(2, 105, fields=["/other.drv"]))
    read(reader, line("result", id=1, type=101, fields=["mine"]))
    read(reader, line("result", id=2, type=101, fields=["other"]), error(f"'{DRV}' failed"))

    assert str(reader.failure(100)) == f"'{DRV}' failed\n> mine"


def test_a_header_has_the_whole_name_where_it_is_no_store_path(reader):
    read(reader, start(1, 105, fields=["odd"]), start(2, 105, "building"))

    assert read(reader, line("result", id=1, type=101, fields=["x"]))[-2:] == ["odd>", "x"]


FOO = DRV.replace("thing", "foo")


@pytest.mark.parametrize(
    "errors",
    [
        [f"builder for '{FOO}' failed with exit code 2", f"1 dependencies of derivation '{DRV}' x"],
        [
            f"Cannot build '{FOO}'.\n       Reason: builder failed with exit code 2.",
            f"Cannot build '{DRV}'.\n       Reason: 1 dependency failed.",
        ],
    ],
)
def test_the_dependency_that_failed_is_named_first_in_all_versions_of_nix(reader, errors):
    read(reader, *map(error, errors))

    failure = reader.failure(1)
    assert type(failure) is BuildFailed
    assert str(failure) == f"thing-1.0 needs foo-1.0, whose build failed: {errors[0]}"


def test_a_dependency_that_failed_without_a_reason_is_all_there_is_to_tell(reader):
    said = f"1 dependencies of derivation '{DRV}' failed to build"
    read(reader, error(said))

    assert str(reader.failure(1)) == said


def test_a_warning_that_a_daemon_passes_on_is_no_error(reader):
    read(reader, line("msg", level=0, msg="warning: error: unable to download 'u': x; retrying"))

    assert str(reader.failure(9)).startswith("nix-build ended with exit code 9")


def test_what_a_daemon_adds_for_a_client_it_does_not_trust_is_left_out(reader):
    ignored = "warning: ignoring the client-specified setting 'log-lines', because it is restricted"
    failed = f"builder for '{DRV}' failed with exit code 3"
    read(reader, start(1, 105, fields=[DRV]), line("result", id=1, type=101, fields=["mine"]))

    assert read(reader, line("msg", level=0, msg=ignored)) == []
    read(reader, error(f"{failed};\n       last 1 log lines:\n       > mine\n       For full logs"))
    assert str(reader.failure(1)) == f"{failed}\n> mine"


def test_a_binary_that_can_not_be_fetched_is_a_failed_fetch(reader):
    read(reader, error("unable to download 'https://c.invalid/x.nar.xz': HTTP error 503"))

    failure = reader.failure(1)
    assert type(failure) is FetchFailed
    assert str(failure).startswith("could not fetch https://c.invalid/x.nar.xz: the server failed")


def test_a_binary_that_is_gone_is_not_why_its_build_failed(reader):
    failed = f"builder for '{DRV}' failed with exit code 3"
    read(reader, error("file 'nar/x' does not exist in binary cache 'http://c'"), error(failed))

    assert str(reader.failure(100)) == failed


def test_no_file_that_a_builder_names_is_read(reader, tmp_path):
    fifo = tmp_path / "x.drv"
    os.mkfifo(fifo)

    read(reader, start(1, 105, fields=[str(fifo)]))

    assert reader.progress.phase == "building"
