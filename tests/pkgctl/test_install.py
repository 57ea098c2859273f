"""The commands of packages, tasks and the profile, on a real server."""

import json
import subprocess

import pytest

from pkgctl import client
from pkgctl.errors import ExitCode

# --- install ---


def test_install_in_a_pipe_prints_plain_lines_and_ends_with_the_program(ctl):
    exit_code, output, errors = ctl.run("install", "hello@2.12.1")

    lines = output.splitlines()
    assert (exit_code, errors) == (0, "")
    assert lines[0].startswith("Registered hello 2.12.1 as package ")
    assert lines[-2] == "Success: Activated hello 2.12.1"
    assert lines[-1].endswith("/data/profile/bin/hello")
    assert "\x1b" not in output
    assert b"Hello" in subprocess.run([lines[-1]], check=True, capture_output=True).stdout


def test_a_version_may_be_spelled_as_in_the_catalog(ctl, install):
    package = install("quacker@1.5")

    assert (package["version"], package["spelled"]) == ("1.5.0", "1.5")
    assert ctl.json("show", "quacker@1.5")["id"] == package["id"]
    assert install("quacker@1.5")["id"] == package["id"]


def test_a_spelling_names_a_package_that_is_registered_only(ctl):
    created = ctl.json("create", "waddler@2.0k")

    assert created["version"] == "2.0.0+k"
    assert ctl.json("show", "waddler@2.0k")["id"] == created["id"]
    assert "is not registered" in ctl("show", "waddler@7").stderr


@pytest.mark.parametrize("spec", ["hello@nine", "nosuch@1.0", "a/b@1.0"])
def test_a_version_that_no_catalog_spells_so_is_refused(ctl, spec):
    done = ctl("create", spec)

    assert done.exit_code == ExitCode.REFUSED
    assert "version: Not a semantic version" in done.stderr


def test_a_version_that_no_catalog_spells_so_is_answered_with_those_there_are(ctl):
    assert "(the catalogs have hello 2.12.1, 2.10.0)" in ctl("create", "hello@2.12").stderr
    assert "(the catalogs have hello 2.10.0, 2.12.1)" in ctl("create", "hello@2.10").stderr
    assert "the catalogs" not in ctl("create", "nosuch@1.0").stderr


def test_install_with_json_prints_one_document(ctl):
    done = ctl("install", "hello@2.10.0", "--json")

    package = json.loads(done.stdout)
    assert (package["name"], package["version"]) == ("hello", "2.10.0")
    assert package["status"] == "activated"
    assert done.stderr == ""


def test_installing_again_downloads_nothing(ctl, install):
    first = install("hello@2.10.0")

    assert install("hello@2.10.0")["task"] == first["task"]
    assert ctl("install", "hello@2.10.0").stdout.startswith("Success: Activated hello 2.10.0\n")


def test_several_packages_are_installed_in_one_generation(ctl, install):
    install("parrot")
    install("hello")
    ctl("deactivate", "parrot", "hello")
    before = int(ctl.rows("generations")[0][0])

    done = ctl("install", "parrot", "hello@2.12.1", "parrot")

    lines = done.stdout.splitlines()[-3:]
    assert lines[0] == "Success: Activated parrot 1.0.0, hello 2.12.1"
    assert [line.rpartition("/")[2] for line in lines[1:]] == ["parrot", "hello"]
    assert int(ctl.rows("generations")[0][0]) == before + 1
    assert [one["name"] for one in ctl.json("install", "parrot", "hello")] == ["parrot", "hello"]


def test_of_several_packages_one_that_fails_keeps_all_inactive(ctl):
    ctl("deactivate", "parrot")

    done = ctl("install", "parrot", "fails")

    assert done.exit_code == ExitCode.FAILED
    assert "Warning: fails 1.0.0: " in done.stderr
    assert done.stderr.endswith("(nothing was activated; --keep-going activates the others)\n")
    assert ctl.json("show", "parrot")["status"] == "downloaded"


def test_with_keep_going_the_others_are_activated(ctl):
    done = ctl("install", "fails", "parrot", "--keep-going")

    assert done.exit_code == ExitCode.FAILED
    assert "Success: Activated parrot 1.0.0\n" in done.stdout
    assert done.stderr.endswith("Error: 1 of 2 downloads failed\n")


def test_two_versions_of_a_name_are_not_installed_at_once(ctl):
    done = ctl("install", "hello@2.12.1", "hello@2.10.0")

    assert done.exit_code == ExitCode.USAGE
    assert done.stderr.endswith("hello is wanted in two versions: a profile holds one\n")


def test_install_without_activation_ends_with_a_downloaded_package(install):
    assert install("fortune@1.2.0", "--no-activate")["status"] == "downloaded"


def test_a_package_without_a_program_is_shown_by_its_store_path(ctl, install):
    store_path = install("library@1.0.0")["store_path"]

    assert ctl("install", "library@1.0.0").stdout.splitlines()[-1] == store_path


def test_install_with_follow_prints_the_whole_log(ctl):
    done = ctl("install", "oracle@1.0.0", "--follow")

    assert "pkgd: attempt 1: resolving oracle 1.0.0" in done.stdout.splitlines()
    assert done.exit_code == 0


def test_the_error_of_a_missing_version_names_the_available_ones(ctl):
    exit_code, output, errors = ctl.run("install", "hello@9.9.9", "--json")

    assert (exit_code, output, errors.count("\n")) == (ExitCode.NOT_FOUND, "", 1)
    assert errors.startswith("Error: no catalog has hello 9.9.9; there are: 2.12.1, 2.10.0 (")


@pytest.mark.parametrize(
    ("spec", "exit_code", "message"),
    [
        ("fails@1.0.0", ExitCode.FAILED, "> no rule to make it (read the end of the build's log"),
        ("nosuch@1.0.0", ExitCode.NOT_FOUND, "no catalog has nosuch"),
        (
            "hello@new",
            ExitCode.REFUSED,
            "version: Neither a version that a catalog has nor a range",
        ),
        ("hello@02.12.1", ExitCode.REFUSED, "version: Neither a version that a catalog has"),
        ("secret@1.0.0", ExitCode.NOT_FOUND, "secret 1.0.0 can't be had: it has an unfree license"),
        ("nosuch1@1.0.0", ExitCode.NOT_FOUND, "no catalog has nosuch1"),
        ("hello@", ExitCode.USAGE, "'hello@' is not NAME or NAME@VERSION"),
        ("hello 2.10.0", ExitCode.USAGE, "2.10.0 is no name; did you mean hello@2.10.0?"),
        ("@1.0.0", ExitCode.USAGE, "'@1.0.0' is not NAME or NAME@VERSION"),
    ],
)
def test_a_failed_installation_says_why_and_exits_with_its_code(ctl, spec, exit_code, message):
    done = ctl("install", *spec.split())

    assert done.exit_code == exit_code
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("spec", ["nosuch@2.0.0", "hello@8.8.8", "secret@1.0.0"])
def test_installing_what_can_not_be_had_registers_nothing(ctl, spec):
    done = ctl("install", "parrot", spec)

    assert (done.exit_code, "Registered" in done.stdout) == (ExitCode.NOT_FOUND, False)
    assert ctl("show", spec).exit_code == ExitCode.NOT_FOUND
    # The catalog's own tasks may be queued.
    queued = [row[1] for row in ctl.rows("tasks", "--status", "queued")]
    assert not [subject for subject in queued if subject.startswith(("parrot", spec.split("@")[0]))]


@pytest.mark.parametrize(
    ("spec", "create"), [("fails@1.0.0", False), ("nosuch@3.0.0", True), ("hello@7.7.7", True)]
)
def test_a_failed_installation_keeps_what_was_registered_before_or_has_a_log(ctl, spec, create):
    if create:
        ctl("create", spec)

    assert ctl("install", spec).exit_code != 0

    assert ctl("show", spec).exit_code == 0


# --- packages ---


def test_a_package_is_registered_once(ctl):
    first, second = ctl("create", "twice@1.0.0"), ctl("create", "twice@1.0.0")

    assert first.stdout.startswith("Success: Registered twice 1.0.0 as package ")
    assert (second.exit_code, second.stdout) == (ExitCode.REFUSED, "")
    assert second.stderr == "Error: twice 1.0.0 is registered already\n"


def test_a_list_has_the_entries_of_all_pages(ctl, monkeypatch):
    monkeypatch.setattr(client, "PAGE_SIZE", 2)
    versions = [f"{number}.0.0" for number in range(5)]
    for version in versions:
        ctl("create", f"paged@{version}")

    assert [row[2] for row in ctl.rows("list", "--name", "paged")] == versions
    assert len(ctl.json("list", "--name", "paged")) == 5
    assert [row[2] for row in ctl.rows("list", "--name", "paged", "-n", 3)] == versions[:3]


def test_a_package_whose_download_failed_is_shown_with_the_reason(ctl):
    ctl("create", "hello@9.9.8")
    ctl("download", "hello@9.9.8", "--wait")

    shown = dict(ctl.rows("show", "hello@9.9.8"))

    assert shown["task error"] == "version_unavailable"
    assert shown["task message"] == "no catalog has hello 9.9.8; to be had: 2.12.1, 2.10.0"


def test_a_package_is_shown_by_its_id_or_by_its_name_and_version(ctl, install):
    package = install("hello@2.12.1")

    assert ctl.json("show", package["id"]) == package
    shown = dict(ctl.rows("show", "hello@2.12.1"))
    assert shown["store path"] == package["store_path"]
    assert (shown["status"], shown["task error"]) == ("activated", "-")


@pytest.mark.parametrize(
    ("ref", "exit_code"),
    [
        ("2147483647", ExitCode.NOT_FOUND),
        ("hello@0.0.1", ExitCode.NOT_FOUND),
        ("2147483648", ExitCode.USAGE),
        ("nosuch0", ExitCode.NOT_FOUND),
        ("1.2", ExitCode.USAGE),
    ],
)
@pytest.mark.parametrize("command", ["show", "download", "activate", "deactivate", "remove"])
def test_an_unknown_package_is_not_found(ctl, command, ref, exit_code):
    done = ctl(command, ref)

    assert (done.exit_code, done.stdout) == (exit_code, "")


def test_activate_prints_the_version(ctl, install):
    package = install("hello@2.12.1", "--no-activate")

    done = ctl("activate", package["id"], "--token", ctl.environ["PKGCTL_TOKEN"])

    assert (done.exit_code, done.output) == (0, "Success: Activated package v2.12.1\n")


def test_activate_by_name_prints_the_name(ctl, install):
    install("hello@2.12.1", "--no-activate")

    assert ctl("activate", "hello@2.12.1").stdout == "Success: Activated hello 2.12.1\n"


def test_one_name_is_enough_for_the_active_version(ctl, install):
    install("hello@2.10.0", "--no-activate")
    install("hello@2.12.1")

    assert ctl.json("show", "hello")["version"] == "2.12.1"
    assert ctl.json("logs", "hello")["log"] == ctl.json("logs", "hello@2.12.1")["log"]
    assert ctl("download", "hello").stdout == "Success: hello 2.12.1 is downloaded already\n"
    assert ctl("deactivate", "hello").stdout == "Success: Deactivated hello 2.12.1\n"


def test_a_name_of_several_versions_is_answered_with_these(ctl, install):
    install("hello@2.10.0", "--no-activate")
    install("hello@2.12.1", "--no-activate")
    ctl("deactivate", "hello")

    done = ctl("remove", "hello")

    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert "2.12.1 (downloaded)" in done.stderr
    assert "2.10.0 (downloaded)" in done.stderr
    assert "(choose one, such as hello@" in done.stderr


def test_what_is_not_active_is_not_deactivated(ctl, install):
    install("waddler@2.0k", "--no-activate")

    done = [ctl("deactivate", word).stdout for word in ("waddler", "waddler@2.0.0+k")]

    assert done == ["Success: waddler 2.0.0+k isn't active\n"] * 2


def test_several_packages_are_activated_in_one_generation(ctl, install):
    specs = ["hello@2.10.0", "parrot@1.0.0", "hello@2.10.0"]
    for spec in specs:
        install(spec)
    ctl("deactivate", "hello", "parrot")
    before = int(ctl.rows("generations")[0][0])

    plan = dict(ctl.rows("activate", *specs, "--dry-run"))
    done = ctl("activate", *specs)

    assert plan["added"] == "hello 2.10.0, parrot 1.0.0"
    assert done.stdout == "Success: Activated hello 2.10.0, parrot 1.0.0\n"
    assert int(ctl.rows("generations")[0][0]) == before + 1


def test_several_packages_are_deactivated_and_removed(ctl, install):
    for name in ("oracle", "fortune"):
        install(name)

    assert ctl.json("deactivate", "oracle", "fortune") == [{"status": "downloaded"}] * 2
    removed = ctl("remove", "oracle", "fortune", "oracle")
    assert removed.stdout == "Success: Removed oracle 1.0.0\nSuccess: Removed fortune 1.2.0\n"


def test_a_name_that_is_not_there_changes_nothing_of_the_others(ctl, install):
    install("parrot")

    for command in ("deactivate", "remove", "activate"):
        done = ctl(command, "parrot", "nosuch9")
        assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
        assert "nosuch9 is not registered (pkgctl list lists what is; pkgctl install" in done.stderr
    assert ctl.json("show", "parrot")["status"] == "activated"


def test_activate_needs_a_download_first(ctl):
    ctl("create", "early@1.0.0")

    done = ctl("activate", "early@1.0.0")

    assert done.exit_code == ExitCode.REFUSED
    assert done.stderr == "Error: early 1.0.0 is not downloaded (pkgctl install early@1.0.0)\n"


def test_a_dry_run_shows_the_change_and_does_not_make_it(ctl, install):
    install("hello@2.12.1")
    install("hello@2.10.0", "--no-activate")

    plan = dict(ctl.rows("activate", "hello@2.10.0", "--dry-run"))

    assert plan["replaced"] == "hello 2.12.1 by 2.10.0"
    assert ["2.12.1", "activated"] in [row[2:4] for row in ctl.rows("list", "--name", "hello")]


def test_a_package_is_deactivated_and_then_removed(ctl, install):
    install("library@1.0.0")

    in_use = ctl("remove", "library@1.0.0")
    hint = "pkgctl deactivate library@1.0.0 first"
    assert (in_use.exit_code, in_use.stderr) == (1, f"Error: library 1.0.0 is activated ({hint})\n")
    ctl("promote", "default", "team")
    assert ctl("deactivate", "library@1.0.0").stdout == "Success: Deactivated library 1.0.0\n"
    said = ctl("deactivate", "library@1.0.0").stdout
    assert said == "Success: library 1.0.0 isn't active in default, but in team\n"
    assert "(pkgctl deactivate library@1.0.0 -p team first)" in ctl("remove", "library").stderr
    ctl("profiles", "delete", "team")
    assert ctl("remove", "library@1.0.0").stdout == "Success: Removed library 1.0.0\n"
    assert ctl("show", "library@1.0.0").exit_code == ExitCode.NOT_FOUND


# --- tasks ---


def test_a_download_goes_on_in_the_background(ctl, gated, service):
    ctl("create", gated.spec)

    first, again = ctl("download", gated.spec), ctl.json("download", gated.spec)

    task_id = again["task_id"]
    assert first.stdout == f"Success: Downloading {gated.name} 1.0.0, task {task_id}\n"
    gated.open()
    assert service.ended(task_id)["status"] == "succeeded"


def test_a_download_is_waited_for_with_wait(ctl):
    ctl("create", "hello@2.12.1")

    assert ctl("download", "hello@2.12.1", "--wait").stdout.endswith("Downloaded hello 2.12.1\n")
    again = ctl("download", "hello@2.12.1")
    assert again.stdout == "Success: hello 2.12.1 is downloaded already\n"


def test_tasks_are_listed_by_status_and_by_package(ctl, install):
    package = install("hello@2.12.1")
    ctl("install", "fails@1.0.0")

    failed = ctl.rows("tasks", "--status", "failed")
    assert {tuple(row[1:3]) for row in failed} >= {("fails 1.0.0", "failed")}
    assert "build_failed" in {row[4] for row in failed}
    [task] = ctl.rows("tasks", "--package", "hello@2.12.1", "-n", 1)
    assert task[:3] == [package["task"]["id"], "hello 2.12.1", "succeeded"]


def test_a_log_is_printed_byte_by_byte(ctl, service, install):
    package = install("hello@2.12.1")
    log = service.task_log(package["task"]["id"])

    assert ctl("logs", "hello@2.12.1").stdout_bytes == log
    assert ctl("logs", package["task"]["id"], "--attempt", 1).stdout_bytes == log
    assert ctl.json("logs", package["id"])["log"] == log.decode()


def test_the_log_of_an_attempt_that_was_not_made_is_not_found(ctl, install):
    task_id = install("hello@2.12.1")["task"]["id"]

    done = ctl("logs", task_id, "--attempt", 2)

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert done.stderr == f"Error: task {task_id} has no attempt 2 (the latest is 1)\n"


def test_a_followed_log_takes_no_attempt(ctl):
    done = ctl("logs", "-f", "hello@2.12.1", "--attempt", 1)

    assert (done.exit_code, done.stdout) == (ExitCode.USAGE, "")
    assert "takes no --attempt" in done.stderr


def test_a_followed_log_exits_with_the_code_of_its_task(ctl):
    ctl("install", "fails@1.0.0")

    done = ctl("logs", "-f", "fails@1.0.0")

    assert done.exit_code == ExitCode.FAILED
    assert "no rule to make it" in done.stdout


def test_with_json_a_followed_log_is_printed_to_the_standard_error(ctl, install):
    install("hello@2.12.1")

    done = ctl("logs", "-f", "hello@2.12.1", "--json")

    assert json.loads(done.stdout)["status"] == "succeeded"
    assert "pkgd: attempt 1" in done.stderr


def test_a_task_is_named_by_the_first_digits_of_its_id(ctl, install):
    task_id = install("hello@2.12.1")["task"]["id"]

    assert ctl.json("logs", task_id[:30])["id"] == task_id
    assert ctl.json("logs", "-f", task_id[:30])["id"] == task_id
    assert ctl.json("logs", task_id.replace("-", "")[:31].upper())["id"] == task_id
    assert ctl("cancel", task_id[:30]).stderr == f"Error: task {task_id} has ended already\n"


def test_digits_of_several_tasks_are_answered_with_these(ctl, install):
    install("hello@2.12.1")
    install("parrot@1.0.0")

    done = ctl("logs", ctl.rows("tasks")[0][0][:4])

    assert done.exit_code == ExitCode.REFUSED
    assert "several tasks have ids that begin with" in done.stderr


@pytest.mark.parametrize("word", ["0000", "99999999", "beef", "cafe-1"])
def test_digits_that_nothing_begins_with_are_not_found(ctl, word):
    done = ctl("logs", word)

    message = f"no task's id begins with {word}, and no package is called so"
    assert (done.exit_code, done.stderr) == (
        ExitCode.NOT_FOUND,
        f"Error: {message} (pkgctl tasks lists the tasks)\n",
    )


def test_a_package_whose_name_is_hexadecimal_goes_before_a_task(ctl):
    ctl("create", "decade@1.0.0")

    assert "decade 1.0.0 has no task" in ctl("logs", "decade").stderr


@pytest.mark.parametrize("command", ["logs", "cancel"])
def test_a_package_that_was_never_downloaded_has_no_task(ctl, command):
    ctl("create", "idle@1.0.0")

    done = ctl(command, "idle@1.0.0")

    assert done.exit_code == ExitCode.NOT_FOUND
    assert "idle 1.0.0 has no task" in done.stderr


def test_a_running_task_is_cancelled(ctl, gated, service):
    ctl("create", gated.spec)
    task_id = ctl.json("download", gated.spec)["task_id"]

    done = ctl("cancel", task_id)

    assert done.stdout.endswith(f" {gated.name} 1.0.0: task {task_id}\n")
    assert service.ended(task_id)["status"] == "cancelled"
    assert ctl("cancel", gated.spec).exit_code == ExitCode.REFUSED


# --- the profile ---


def test_the_profile_goes_back_and_forth_through_its_generations(ctl, install):
    install("hello@2.10.0")
    install("hello@2.12.1")
    before = next(row[0] for row in ctl.rows("generations") if "hello 2.10.0" in row[5])

    done = ctl("rollback")
    changes = "- hello 2.12.1\n+ hello 2.10.0\n"
    assert done.stdout == f"{changes}Success: Switched to generation {before}\n"
    [active] = ctl.rows("list", "--status", "activated", "--name", "hello")
    assert active[2] == "2.10.0"
    newest = ctl.rows("generations")[0][0]
    changes = "- hello 2.10.0\n+ hello 2.12.1\n"
    assert ctl("switch", newest).stdout == f"{changes}Success: Switched to generation {newest}\n"


def test_an_unknown_generation_is_not_found(ctl):
    assert ctl("switch", 9999).exit_code == ExitCode.NOT_FOUND


def test_a_generation_shows_why_it_was_made(ctl, install):
    install("hello@2.10.0")
    install("hello@2.12.1")

    [active] = [row for row in ctl.rows("generations") if row[1] == "yes"]

    assert active[4] == "replace"
    assert active[5].count("hello 2.12.1") == 1
