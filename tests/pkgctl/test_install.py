"""pkgctl: packages, tasks and the profile, on a real server."""

import json
import subprocess

import pytest
from harness import Ctl, served

from pkgctl import client as pkgctl_client
from pkgctl.client import Exit


@pytest.fixture(scope="module")
def service(tmp_path_factory, store_dir):
    """A server that the tests of this module share."""
    with served(tmp_path_factory.mktemp("pkgctl"), store_dir) as service:
        yield service


@pytest.fixture
def ctl(service, tmp_path):
    """Pkgctl, with the server and an admin's token in its environment."""
    return Ctl(tmp_path, service.url, service.secret)


@pytest.fixture
def installed(ctl):
    """Return a function that installs a package and returns its document."""

    def installed(wanted, *more):
        return json.loads(ctl("install", wanted, "--json", *more).stdout)

    return installed


def rows(done):
    """Return the rows of a list in a pipe."""
    assert done.exit_code == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


# --- install ---


def test_install_in_a_pipe_prints_plain_lines_and_ends_with_the_program(ctl):
    code, output, errors = ctl.run("install", "hello@2.12.1")

    lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert lines[0].startswith("Registered hello 2.12.1 as package ")
    assert lines[-2] == "Success: Activated package v2.12.1"
    assert "\x1b" not in output
    assert b"Hello" in subprocess.run([lines[-1]], check=True, capture_output=True).stdout


def test_install_with_json_prints_one_document(ctl):
    done = ctl("install", "hello@2.10.0", "--json")

    package = json.loads(done.stdout)
    assert (package["name"], package["version"]) == ("hello", "2.10.0")
    assert package["status"] == "activated"
    assert done.stderr == ""


def test_installing_again_changes_nothing(ctl, installed):
    first = installed("hello@2.10.0")

    assert installed("hello@2.10.0")["task"] == first["task"]
    assert ctl("install", "hello@2.10.0").stdout.startswith("Success: Activated package v2.10.0\n")


def test_install_without_activation_ends_with_a_downloaded_package(installed):
    assert installed("parrot@1.0.0", "--no-activate")["status"] == "downloaded"


def test_a_package_without_a_program_is_shown_by_its_store_path(ctl, installed):
    store_path = installed("library@1.0.0")["store_path"]

    assert ctl("install", "library@1.0.0").stdout.splitlines()[-1] == store_path


def test_install_prints_the_whole_log_when_asked_to(ctl):
    done = ctl("install", "oracle@1.0.0", "--follow")

    assert "pkgd: attempt 1: resolving oracle 1.0.0" in done.stdout.splitlines()
    assert done.exit_code == 0


def test_a_missing_version_is_answered_with_a_line_that_names_those_there_are(ctl):
    code, output, errors = ctl.run("install", "hello@9.9.9", "--json")

    assert (code, output, errors.count("\n")) == (Exit.NOT_FOUND, "", 1)
    assert errors.startswith("Error: no catalog has hello 9.9.9; to be had: 2.12.1, 2.10.0 (")


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ("fails@1.0.0", Exit.FAILED, "> no rule to make it (read the end of the build's log"),
        ("nosuch@1.0.0", Exit.NOT_FOUND, "no catalog has nosuch"),
        ("hello@new", Exit.REFUSED, "version: Not a semantic version"),
        ("hello", Exit.USAGE, "'hello' is not NAME@VERSION"),
        ("hello@", Exit.USAGE, "'hello@' is not NAME@VERSION"),
    ],
)
def test_an_installation_that_fails_says_why_and_exits_with_its_code(ctl, wanted, code, said):
    done = ctl("install", wanted)

    assert (done.exit_code, said in done.stderr.splitlines()[-1]) == (code, True), done.stderr


# --- packages ---


def test_a_package_is_registered_once(ctl):
    first, second = ctl("create", "twice@1.0.0"), ctl("create", "twice@1.0.0")

    assert first.stdout.startswith("Success: Registered twice 1.0.0 as package ")
    assert (second.exit_code, second.stdout) == (Exit.REFUSED, "")
    assert second.stderr == "Error: twice 1.0.0 is registered already\n"


def test_a_list_is_followed_through_all_of_its_pages(ctl, monkeypatch):
    monkeypatch.setattr(pkgctl_client, "PAGE", 2)
    for number in range(5):
        ctl("create", f"paged@{number}.0.0")

    assert [row[2] for row in rows(ctl("list", "--name", "paged"))] == [
        f"{number}.0.0" for number in range(5)
    ]
    assert len(json.loads(ctl("list", "--name", "paged", "--json").stdout)) == 5
    assert len(rows(ctl("list", "-n", 3))) == 3


def test_a_package_is_shown_by_its_id_or_by_its_name_and_version(ctl, installed):
    package = installed("hello@2.12.1")

    assert json.loads(ctl("show", package["id"], "--json").stdout) == package
    shown = dict(rows(ctl("show", "hello@2.12.1")))
    assert shown["store path"] == package["store_path"]
    assert (shown["status"], shown["task error"]) == ("activated", "-")


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("2147483647", Exit.NOT_FOUND),
        ("hello@0.0.1", Exit.NOT_FOUND),
        ("2147483648", Exit.USAGE),
        ("hello", Exit.USAGE),
    ],
)
@pytest.mark.parametrize("command", ["show", "download", "activate", "deactivate", "remove"])
def test_a_package_that_is_not_there_is_not_found(ctl, command, which, code):
    done = ctl(command, which)

    assert (done.exit_code, done.stdout) == (code, "")


def test_activate_prints_the_version(ctl, installed):
    package = installed("hello@2.12.1", "--no-activate")

    done = ctl("activate", package["id"], "--token", ctl.environ["PKGCTL_TOKEN"])

    assert (done.exit_code, done.output) == (0, "Success: Activated package v2.12.1\n")


def test_activate_needs_a_download_first(ctl):
    ctl("create", "early@1.0.0")

    done = ctl("activate", "early@1.0.0")

    assert (done.exit_code, done.stderr) == (Exit.REFUSED, "Error: early 1.0.0 is not downloaded\n")


def test_a_dry_run_tells_what_would_change_and_changes_nothing(ctl, installed):
    installed("hello@2.12.1")
    installed("hello@2.10.0", "--no-activate")

    told = dict(rows(ctl("activate", "hello@2.10.0", "--dry-run")))

    assert told["replaced"] == "hello 2.12.1 by 2.10.0"
    assert ["2.12.1", "activated"] in [row[2:4] for row in rows(ctl("list", "--name", "hello"))]


def test_a_package_is_deactivated_and_then_removed(ctl, installed):
    installed("library@1.0.0")

    in_use = ctl("remove", "library@1.0.0")
    assert (in_use.exit_code, in_use.stderr) == (1, "Error: library 1.0.0 is activated\n")
    assert ctl("deactivate", "library@1.0.0").stdout == "Success: Deactivated package v1.0.0\n"
    assert ctl("remove", "library@1.0.0").stdout == "Success: Removed library 1.0.0\n"
    assert ctl("show", "library@1.0.0").exit_code == Exit.NOT_FOUND


def test_a_search_lists_the_versions_on_offer(ctl):
    assert [row[0] for row in rows(ctl("search", "hello"))] == ["2.12.1", "2.10.0"]
    assert json.loads(ctl("search", "hello", "--json").stdout)["name"] == "hello"


def test_a_search_for_nothing_there_tells_near_names(ctl):
    done = ctl("search", "hallo")

    assert done.exit_code == Exit.NOT_FOUND
    assert "did you mean hello" in done.stderr


@pytest.mark.parametrize("name", ["", "..", "hello/world"])
def test_a_search_for_what_no_url_can_name_finds_nothing(ctl, name):
    done = ctl("search", name)

    assert (done.exit_code, done.stdout) == (Exit.NOT_FOUND, "")
    assert done.stderr == f"Error: no catalog has {name!r}\n"


# --- tasks ---


def test_a_download_goes_on_in_the_background(ctl, service):
    ctl("create", "gated0@1.0.0")

    first, again = ctl("download", "gated0@1.0.0"), ctl("download", "gated0@1.0.0", "--json")

    task_id = json.loads(again.stdout)["task_id"]
    assert first.stdout == f"Success: Downloading gated0 1.0.0, task {task_id}\n"
    (service.gates / "0").touch()
    assert service.ended(task_id)["status"] == "succeeded"


def test_a_download_is_waited_for_when_asked_to(ctl):
    ctl("create", "hello@2.12.1")

    assert ctl("download", "hello@2.12.1", "--wait").stdout.endswith("Downloaded hello 2.12.1\n")
    again = ctl("download", "hello@2.12.1")
    assert again.stdout == "Success: hello 2.12.1 is downloaded already\n"


def test_tasks_are_listed_by_status_and_by_package(ctl, installed):
    package = installed("hello@2.12.1")
    ctl("install", "fails@1.0.0")

    assert {row[4] for row in rows(ctl("tasks", "--status", "failed"))} >= {"build_failed"}
    mine = ctl("tasks", "--package", "hello@2.12.1", "-n", 1)
    assert [row[:3] for row in rows(mine)] == [
        [package["task"]["id"], str(package["id"]), "succeeded"]
    ]


def test_a_log_is_printed_as_it_is(ctl, service, installed):
    package = installed("hello@2.12.1")
    log = service.task_log(package["task"]["id"])

    assert ctl("logs", "hello@2.12.1").stdout_bytes == log
    assert ctl("logs", package["task"]["id"], "--attempt", 1).stdout_bytes == log
    assert json.loads(ctl("logs", package["id"], "--json").stdout)["log"] == log.decode()


def test_a_log_of_an_attempt_that_there_was_not_is_not_found(ctl, installed):
    task_id = installed("hello@2.12.1")["task"]["id"]

    done = ctl("logs", task_id, "--attempt", 2)

    assert (done.exit_code, done.stdout) == (Exit.NOT_FOUND, "")
    assert done.stderr == f"Error: task {task_id} has no attempt 2 (the latest is 1)\n"


def test_a_log_is_followed_through_all_attempts_at_once(ctl):
    done = ctl("logs", "-f", "hello@2.12.1", "--attempt", 1)

    assert (done.exit_code, done.stdout) == (Exit.USAGE, "")
    assert "takes no --attempt" in done.stderr


def test_a_log_that_is_followed_ends_as_its_task_does(ctl, service):
    ctl("install", "fails@1.0.0")

    done = ctl("logs", "-f", "fails@1.0.0")

    assert done.exit_code == Exit.FAILED
    assert "no rule to make it" in done.stdout


def test_with_json_a_followed_log_leaves_the_output_to_the_document(ctl, installed):
    installed("hello@2.12.1")

    done = ctl("logs", "-f", "hello@2.12.1", "--json")

    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "pkgd: attempt 1" in done.stderr


@pytest.mark.parametrize("command", ["logs", "cancel"])
def test_a_package_that_was_never_downloaded_has_no_task(ctl, command):
    ctl("create", "idle@1.0.0")

    done = ctl(command, "idle@1.0.0")

    assert (done.exit_code, "idle 1.0.0 has no task" in done.stderr) == (Exit.NOT_FOUND, True)


def test_a_running_task_is_asked_to_stop(ctl, service):
    ctl("create", "gated1@1.0.0")
    task_id = json.loads(ctl("download", "gated1@1.0.0", "--json").stdout)["task_id"]

    done = ctl("cancel", task_id)

    assert done.stdout.endswith(f": task {task_id}\n")
    assert service.ended(task_id)["status"] == "cancelled"
    assert ctl("cancel", "gated1@1.0.0").exit_code == Exit.REFUSED


# --- the profile ---


def test_the_profile_goes_back_and_forth_through_its_generations(ctl, installed):
    installed("hello@2.10.0")
    installed("hello@2.12.1")
    before = next(row[0] for row in rows(ctl("generations")) if "hello 2.10.0" in row[5])

    assert ctl("rollback").stdout == f"Success: Switched to generation {before}\n"
    assert [row[2] for row in rows(ctl("list", "--status", "activated", "--name", "hello"))] == [
        "2.10.0"
    ]
    newest = rows(ctl("generations"))[0][0]
    assert ctl("switch", newest).stdout == f"Success: Switched to generation {newest}\n"


def test_a_generation_that_is_not_there_is_not_found(ctl):
    assert ctl("switch", 9999).exit_code == Exit.NOT_FOUND


def test_a_generation_tells_who_made_it_and_why(ctl, installed):
    installed("hello@2.10.0")
    installed("hello@2.12.1")

    active = next(row for row in rows(ctl("generations")) if row[1] == "yes")

    assert (active[4], active[5].count("hello 2.12.1")) == ("replace", 1)
