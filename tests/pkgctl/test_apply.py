"""Applying manifests, exporting them, and profiles with names, on a real server."""

import json
import os
import signal

import pytest
from harness import TASK_ID, FakeAnswer, FakeServer, finish, problem, task_answer
from support import until

from pkgctl.errors import ExitCode

SET = {"hello": "^2.10", "quacker": "1.5", "parrot": "latest"}
CHOSEN = {"hello": "2.12.1", "quacker": "1.5.0", "parrot": "1.0.0"}


@pytest.fixture(autouse=True)
def clean(service, ctl):
    """Begin with the profile `default` alone, and with nothing in it."""
    for profile in service.get("profiles")[1:]:
        assert ctl("profiles", "delete", profile["name"]).exit_code == 0
    assert ctl("apply", "-", input="[packages]\n").exit_code == 0


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a manifest, and returns its path."""

    def write(_profile=None, **packages):
        lines = [f'profile = "{_profile}"'] if _profile else []
        lines += ["[packages]", *(f'{name} = "{wanted}"' for name, wanted in packages.items())]
        path = tmp_path / "pkgs.toml"
        path.write_text("\n".join(lines))
        return path

    return write


def lock_of(path):
    """Return the packages of a manifest's lock."""
    return json.loads(path.with_name("pkgs.toml.lock").read_text())["packages"]


def held(ctl, profile="default"):
    """Return the versions that a profile holds, by name."""
    return {row[1]: row[2] for row in ctl.rows("list", "-p", profile)}


def count(ctl, profile="default"):
    """Return how many generations a profile has had."""
    return int(ctl.rows("generations", "-p", profile)[0][0])


# --- apply ---


def test_a_manifest_is_applied_in_one_generation_and_locked(ctl, write):
    path, before = write(**SET), count(ctl)

    done = ctl("apply", path)

    assert done.exit_code == 0, done.stderr
    assert held(ctl) == CHOSEN
    assert count(ctl) == before + 1
    assert done.stdout.splitlines()[-5:] == [
        *("+ hello 2.12.1", "+ parrot 1.0.0", "+ quacker 1.5.0", f"Wrote {path}.lock"),
        f"Success: Profile default holds 3 packages, generation {before + 1}",
    ]
    assert done.stderr.startswith(
        f"Warning: {path}.lock: hello and 2 more came from a catalog that"
    )


def test_the_lock_says_what_each_line_came_to(ctl, write, service):
    path = write(quacker="1.5")

    ctl("apply", path)

    [package] = service.get("packages?name=quacker")
    catalog = str(service.catalog)
    assert lock_of(path)["quacker"] == {
        **{key: package[key] for key in ("version", "spelled", "attr", "drv_path", "store_path")},
        "wanted": "1.5",
        "catalog": {
            **{"name": catalog, "source": catalog, "sha256": None, "revision": None},
            "mutable": True,
        },
    }
    assert path.with_name("pkgs.toml.lock").stat().st_mode == path.stat().st_mode


def written(file):
    """Return what tells whether a file was written since; reading it changes another time."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def test_a_second_apply_changes_nothing(ctl, write):
    path = write(**SET)
    ctl("apply", path)
    before, lock = count(ctl), written(path.with_name("pkgs.toml.lock"))

    done = ctl("apply", path)

    assert (done.stdout, done.stderr) == (
        "Success: Profile default holds 3 packages, as before\n",
        "",
    )
    assert (count(ctl), written(path.with_name("pkgs.toml.lock"))) == (before, lock)


@pytest.fixture
def locked_at_2_10(ctl, write):
    """A manifest that is locked at hello 2.10.0, and wants any 2 now."""
    path = write(hello="2.10.0", parrot="latest")
    assert ctl("apply", path).exit_code == 0
    return write(hello="^2", parrot="latest")


def test_what_is_locked_is_kept_as_long_as_it_fits(ctl, locked_at_2_10, write):
    assert ctl("apply", locked_at_2_10).exit_code == 0

    assert held(ctl)["hello"] == "2.10.0"
    assert lock_of(locked_at_2_10)["hello"]["wanted"] == "^2"
    for wanted, version in [("latest", "2.12.1"), ("2.10.0", "2.10.0"), (">2.10.0", "2.12.1")]:
        ctl("apply", write(hello=wanted))
        assert held(ctl) == {"hello": version}


@pytest.mark.parametrize("words", [[], ["hello"]])
def test_an_upgrade_chooses_anew(ctl, locked_at_2_10, words):
    assert ctl("apply", "--upgrade", locked_at_2_10, "parrot").exit_code == 0
    assert held(ctl)["hello"] == "2.10.0"

    assert ctl("apply", "--upgrade", locked_at_2_10, *words).exit_code == 0

    assert held(ctl)["hello"] == lock_of(locked_at_2_10)["hello"]["version"] == "2.12.1"


def test_a_dry_run_is_the_plan_and_changes_nothing(ctl, write):
    ctl("apply", "-", input='[packages]\nhello = "2.10.0"\n')
    path = write(hello="latest", waddler="latest")

    done = ctl("apply", path, "--dry-run")

    shown = dict(line.split("\t") for line in done.stdout.splitlines()[2:])
    assert shown["to download"] == "waddler 2.0.0+k"
    assert (shown["replaced"], shown["removed"]) == ("hello 2.10.0 by 2.12.1", "-")
    assert shown["added"] == "waddler 2.0.0+k"
    assert (held(ctl), path.with_name("pkgs.toml.lock").exists()) == ({"hello": "2.10.0"}, False)


def test_with_json_it_is_the_profile(ctl):
    done = ctl("apply", "-", "--json", input='[packages]\nhello = "2.10.0"\n')

    assert [one["name"] for one in json.loads(done.stdout)["packages"]] == ["hello"]


def test_one_that_fails_keeps_profile_and_lock_as_they_were(ctl, write):
    ctl("apply", write(hello="2.10.0"))
    path = write(hello="2.12.1", fails="1.0.0")
    before = lock_of(path)

    done = ctl("apply", path)

    assert (done.exit_code, held(ctl), lock_of(path)) == (3, {"hello": "2.10.0"}, before)
    warning, error = done.stderr.splitlines()
    assert warning.startswith("Warning: fails 1.0.0: ")
    told = (
        "1 of 2 packages could not be had (the profile is as it was; what was downloaded stays so)"
    )
    assert error == f"Error: {told}"


def test_each_line_that_can_not_be_had_is_named(ctl, write):
    path = write(hello="^9", nosuch="latest", parrot="1.0.0")

    several, one = ctl("apply", path), ctl("apply", write(hello="~~"))

    assert several.exit_code == ExitCode.NOT_FOUND
    assert several.stderr.splitlines()[0].startswith(
        f"Warning: {path}: packages.hello: no catalog has hello ^9; there are: 2.12.1, 2.10.0"
    )
    assert several.stderr.endswith("Error: 2 of 3 packages can't be had (nothing was changed)\n")
    assert one.stderr.startswith(f"Error: {path}: packages.hello: version: Neither a version")
    unknown = ctl("apply", "--upgrade", path, "nosuch")
    assert unknown.stderr == f"Error: {path}: packages has no nosuch\n"


def test_a_lock_that_could_not_be_written_is_told_beforehand(ctl, write, monkeypatch):
    path = write(hello="2.12.1")
    monkeypatch.setattr(os, "access", lambda *_: False)  # to root, everything can be written

    done = ctl("apply", path)

    assert (done.exit_code, held(ctl)) == (ExitCode.REFUSED, {})
    assert done.stderr.startswith(f"Error: {path}.lock can't be written: ")


def test_an_interrupt_detaches_and_the_apply_goes_on(ctl, write, service, gated):
    path = write(**{gated.name: "1.0.0"})
    waiting = ctl.start("apply", path, "-p", "team")
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)

    exit_code, _, errors = finish(waiting)

    resume = f"pkgctl apply {path} --profile team"
    assert (exit_code, errors.count("\n")) == (ExitCode.INTERRUPTED, 1)
    assert errors == f"Interrupted: the task goes on; come back with: {resume}\n"
    gated.open()
    assert ctl(*resume.split()[1:]).stdout.splitlines()[-2] == f"Wrote {path}.lock"


def test_an_interrupt_cancels_all_with_cancel_on_interrupt(ctl, write, service, gated):
    waiting = ctl.start("apply", write(**{gated.name: "1.0.0"}), "--cancel-on-interrupt")
    until(gated.has_begun)
    waiting.send_signal(signal.SIGINT)

    assert finish(waiting)[0] == ExitCode.CANCELLED

    task = service.get("tasks?kind=apply&limit=1")[0]
    assert service.ended(task["id"])["status"] in ("cancelled", "failed")
    assert held(ctl) == {}


def test_a_newer_apply_is_told_to_the_one_that_waits(ctl, write, gated):
    waiting = ctl.start("apply", write(**{gated.name: "1.0.0"}))
    until(gated.has_begun)
    ctl("apply", "-", input='[packages]\nhello = "2.12.1"\n')
    gated.open()

    exit_code, _, errors = finish(waiting)

    assert (exit_code, held(ctl)) == (ExitCode.CANCELLED, {"hello": "2.12.1"})
    assert errors.startswith("Error: a newer set was given to the profile before this one was")


def test_a_time_out_is_told_and_the_apply_goes_on(ctl, write, service, gated):
    done = ctl("apply", write(**{gated.name: "1.0.0"}), "--timeout", "0.1")

    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.TIMED_OUT, 1)
    assert "the time to wait is over (the task goes on; come back with: pkgctl apply" in done.stderr


def test_a_server_that_does_not_answer_is_told_as_such(unconfigured):
    with FakeServer(lambda *_: None) as server:
        done = unconfigured("apply", "-", "--url", server.url, input='[packages]\nhello = "1"\n')

    assert (done.exit_code, "packages.hello" in done.stderr) == (ExitCode.UNREACHABLE, False)


def test_without_a_download_it_is_the_apply_that_has_failed(unconfigured):
    error = {"code": "check_failed", "message": "no luck", "hint": "look"}
    answers = {"GET": FakeAnswer([]), "PUT": FakeAnswer({"task_id": TASK_ID})}

    def answer(method, path):
        if "/task/" in path:
            return task_answer("failed", error=error)
        return problem(404, "none") if "/profile/" in path and method == "GET" else answers[method]

    with FakeServer(answer) as server:
        done = unconfigured("apply", "-", "-p", "team", "--url", server.url, input="[packages]\n")

    assert (done.exit_code, done.stderr) == (1, f"Error: no luck (look; pkgctl logs {TASK_ID})\n")


@pytest.mark.parametrize("words", [["apply", "-"], ["apply", "-", "--dry-run"], ["profiles"]])
def test_an_older_server_is_told_in_one_line(unconfigured, words):
    with FakeServer(lambda *_: problem(404, "no such URL")) as server:
        done = unconfigured(*words, "--url", server.url, input="[packages]\n")

    assert done.exit_code == ExitCode.REFUSED
    assert done.stderr.startswith("Error: the server is of an older release, which can't ")


@pytest.mark.parametrize("words", [["apply", "-p", "team", "-"], ["deactivate", "1", "2"]])
def test_a_refusal_for_another_reason_says_nothing_more(unconfigured, words):
    package = {"id": 1, "name": "hello", "version": "1.0.0", "status": "created"}

    def answer(_, path):
        number = path.rpartition("/")[2]
        return (
            FakeAnswer({**package, "id": int(number)})
            if "/package/" in path
            else problem(403, "no")
        )

    with FakeServer(answer) as server:
        done = unconfigured(*words, "--url", server.url, input="[packages]\n")

    assert (done.exit_code, done.stderr) == (ExitCode.NOT_ALLOWED, "Error: no\n")


# --- export ---


def test_what_is_exported_is_applied_to_the_letter(ctl, tmp_path):
    ctl("apply", "-", "-p", "team", input='[packages]\nhello = "2.10.0"\n')
    path = tmp_path / "out.toml"

    done = ctl("export", "-p", "team", path)

    assert done.stdout == f"Wrote {path}\nWrote {path}.lock\n"
    assert path.read_text() == 'profile = "team"\n\n[packages]\nhello = "2.10.0"\n'
    assert ctl("export", "-p", "team").stdout == path.read_text()
    packages = json.loads((tmp_path / "out.toml.lock").read_text())["packages"]
    assert ctl.json("export", "-p", "team") == packages
    assert "team holds 1 package, as before" in ctl("apply", "--locked", path).stdout
    ctl("apply", "--locked", path, "-p", "other")
    assert held(ctl, "other") == {"hello": "2.10.0"}


def test_files_that_there_are_are_replaced_by_force_alone(ctl, write):
    path = write(hello="^2")

    refused = ctl("export", path)

    assert (refused.exit_code, path.read_text()) == (ExitCode.REFUSED, '[packages]\nhello = "^2"')
    assert refused.stderr == f"Error: {path}: there already (pass --force to replace)\n"
    assert ctl("export", path, "--force").exit_code == 0
    assert path.read_text() == "[packages]\n"
    nowhere = ctl("export", "/none/pkgs.toml")
    assert nowhere.stderr.startswith("Error: /none/pkgs.toml can't be written: No such file or")


def test_there_is_no_lock_of_a_profile_that_has_changed_meanwhile(unconfigured):
    profile = FakeAnswer({"packages": [{"id": 1, "name": "hello", "version": "1.0.0"}]})

    with FakeServer(lambda _, path: profile if "/profile/" in path else FakeAnswer([])) as server:
        done = unconfigured("export", "--json", "--url", server.url)

    assert done.stderr.startswith(
        "Error: profile default has changed meanwhile: there is no lock of"
    )


# --- Profiles with names ---


def test_a_profile_is_promoted_rolled_back_compared_and_deleted(ctl):
    ctl("apply", "-", "-p", "staging", input='[packages]\nhello = "2.12.1"\nparrot = "1.0.0"\n')
    ctl("apply", "-", input='[packages]\nhello = "2.10.0"\n')
    lines = ["- hello 2.10.0", "+ hello 2.12.1", "+ parrot 1.0.0"]

    assert ctl("diff", "default", "staging").stdout.splitlines() == lines
    assert ctl("promote", "staging", "default", "--dry-run").stdout.splitlines() == lines
    promoted = ctl("promote", "staging", "default").stdout.splitlines()
    assert (promoted[:-1], promoted[-1].split(",")[0]) == (
        lines,
        "Success: Promoted staging to default",
    )
    same = "default and staging have the same packages\n"
    assert ctl("diff", "default", "staging").stdout == same
    ctl("rollback", "-p", "default")
    assert held(ctl) == {"hello": "2.10.0"}
    assert [row[0] for row in ctl.rows("profiles")] == ["default", "staging"]
    assert ctl("profiles", "delete", "staging").stdout == "Success: Deleted the profile staging\n"
    assert ctl("profiles", "delete", "default").exit_code == ExitCode.REFUSED


def test_a_profile_is_compared_with_a_manifest(ctl, write):
    ctl("apply", "-", input='[packages]\nhello = "2.10.0"\n')
    path = write(hello="^2", parrot="1.0.0")

    assert ctl.json("diff", "default", path)["added"] == [{"name": "parrot", "version": "1.0.0"}]
    assert ctl("diff", "nosuch", path).exit_code == ExitCode.NOT_FOUND
    assert ctl("diff", "Not", path).exit_code == ExitCode.USAGE


@pytest.fixture(params=["option", "environment"])
def at_team(request, ctl):
    """Return a function that runs the command for the profile `team`, which holds quacker."""
    assert ctl("apply", "-", "-p", "team", input='[packages]\nquacker = "1.5"\n').exit_code == 0
    if request.param == "environment":
        ctl.environ["PKGCTL_PROFILE"] = "team"
        return ctl
    return lambda *words: ctl(*words, "-p", "team")


def test_commands_take_the_name_of_a_profile(ctl, at_team):
    assert at_team("install", "hello@2.10.0").stdout.endswith("/profiles/team/bin/hello\n")
    assert at_team("outdated").stdout.split("\t")[:2] == ["hello", "2.10.0"]
    assert at_team("upgrade").stdout.endswith("+ hello 2.12.1\nSuccess: Upgraded 1 package\n")
    assert at_team("rollback").stdout == (
        "- hello 2.12.1\n+ hello 2.10.0\nSuccess: Switched to generation 2\n"
    )
    assert at_team("switch", "3").exit_code == at_team("activate", "parrot").exit_code == 0
    assert len(at_team("generations").stdout.splitlines()) == 4
    assert at_team("path").stdout.endswith("/data/profiles/team/bin\n")
    before = count(ctl, "team")
    assert at_team("deactivate", "hello", "parrot", "fortune@1.2.0").stdout.splitlines()[-2:] == [
        "Success: Deactivated parrot 1.0.0",
        "Success: fortune 1.2.0 isn't active",
    ]
    assert at_team("deactivate", "quacker").stdout == "Success: Deactivated quacker 1.5.0\n"
    assert (count(ctl, "team"), held(ctl, "team"), held(ctl)) == (before + 2, {}, {})


@pytest.fixture(autouse=True, scope="module")
def downloaded(service):
    """What is downloaded before the first test, and in no profile."""
    for name, version in (("parrot", "1.0.0"), ("fortune", "1.2.0")):
        service.ended(service.schedule(name, version))


@pytest.mark.parametrize("command", ["deactivate", "install"])
def test_a_profile_is_made_by_an_apply_or_a_promotion_alone(ctl, command):
    done = ctl(command, "parrot", "fortune", "-p", "typo")

    assert (done.exit_code, len(ctl.rows("profiles"))) == (ExitCode.NOT_FOUND, 1)
    assert done.stderr.startswith("Error: there is no profile 'typo' (pkgctl profiles lists those")


def test_what_is_no_name_of_a_profile_is_wrong_usage(ctl):
    ctl.environ["PKGCTL_PROFILE"] = "../x"

    done = ctl("generations")

    message = "Error: PKGCTL_PROFILE is '../x', which is no name of a profile\n"
    assert (done.exit_code, done.stderr) == (ExitCode.USAGE, message)


def test_a_name_means_the_version_that_the_profile_holds(ctl):
    ctl("apply", "-", input='[packages]\nhello = "2.10.0"\n')
    ctl("apply", "-", "-p", "team", input='[packages]\nhello = "2.12.1"\n')

    assert ctl("deactivate", "hello").stdout == "Success: Deactivated hello 2.10.0\n"
    assert ctl.json("show", "hello")["version"] == "2.12.1"
    assert dict(ctl.rows("show", "hello"))["profiles"] == "team"


def test_the_tasks_of_a_profile_are_listed(ctl):
    ctl("apply", "-", "-p", "tasked", input='[packages]\nhello = "2.12.1"\n')

    assert [row[1] for row in ctl.rows("tasks", "-p", "tasked")] == ["profile tasked"]
