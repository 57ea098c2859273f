"""Outdated packages, and taking up their newer versions in one step."""

import signal
from itertools import count

import pytest
from harness import PACKAGE, TASK_ID, FakeAnswer, FakeServer, finish, problem, write_catalog
from support import until

from pkgctl.errors import ExitCode

names = (f"tool{n}" for n in count())


@pytest.fixture(autouse=True)
def clean(service, ctl):
    """Begin with an empty profile, and end with the catalog as it was."""
    for package in service.get("packages?status=activated"):
        assert ctl("deactivate", package["id"]).exit_code == 0
    yield
    write_catalog(service.catalog, service.gates)


@pytest.fixture
def offer(service):
    """Return a function that has the catalog offer these versions of a name, built by a script."""
    offered = {}

    def offer(name, *versions, script="mkdir -p $out/bin; echo > $out/bin/$pname"):
        attributes = [name, *(f"{name}_{n}" for n in range(1, len(versions)))]
        offered[name] = "".join(
            f"{attr} = build \"{name}\" \"{version}\" ''{script}'';\n"
            for attr, version in zip(attributes, versions, strict=True)
        )
        write_catalog(service.catalog, service.gates, "".join(offered.values()))

    return offer


@pytest.fixture
def tool(ctl, offer):
    """The name of an active package 1.0.0, of which 1.1.0 is on offer, too."""
    name = next(names)
    offer(name, "1.1.0", "1.0.0")
    assert ctl("install", f"{name}@1.0.0").exit_code == 0
    return name


def active(ctl):
    """Return the versions that are active, by name."""
    return {row[1]: row[2] for row in ctl.rows("list", "--status", "activated")}


# --- outdated ---


def test_what_is_newer_on_offer_is_listed_with_its_catalog(ctl, tool, service):
    ctl("install", "hello@2.12.1")

    assert ctl.rows("outdated") == [[tool, "1.0.0", "1.1.0", str(service.catalog)]]
    assert ctl.json("outdated") == [
        {"name": tool, "installed": "1.0.0", "newest": "1.1.0", "catalog": str(service.catalog)}
    ]


@pytest.mark.parametrize(
    ("spelled", "versions", "newest"),
    [
        ("1.0", ["1.10", "1.9", "1.0"], "1.10.0"),
        ("1.0", ["2.0rc1", "1.0"], None),  # a pre-release is not offered
        ("2.0rc1", ["2.0", "2.0rc1"], "2.0.0"),
        ("2.0rc1", ["2.0rc1", "1.9"], None),
        ("1.0.2k", ["1.0.2u", "1.0.2k"], "1.0.2+u"),  # in the list, the catalog's order counts
        ("7.1.1-29", ["7.1.1-30", "7.1.1-29"], "7.1.1-30"),
    ],
)
def test_the_order_is_that_of_the_list(ctl, offer, spelled, versions, newest):
    name = next(names)
    offer(name, *versions)
    assert ctl("install", f"{name}@{spelled}").exit_code == 0

    assert [row[2] for row in ctl.rows("outdated")] == ([newest] if newest else [])


@pytest.mark.parametrize(
    ("versions", "newest"),
    [(["0.9", "1.0.1", "2.0rc1"], "1.0.1"), (["0.9"], None), (["0.9.9", "1.0rc1"], None)],
)
def test_a_version_that_is_no_longer_on_offer_is_compared(ctl, offer, tool, versions, newest):
    offer(tool, *versions)

    assert [row[2] for row in ctl.rows("outdated")] == ([newest] if newest else [])


def test_a_name_that_no_catalog_has_any_more_is_a_warning(ctl, service, tool):
    ctl("install", "hello@2.10.0")
    write_catalog(service.catalog, service.gates)

    done = ctl("outdated")

    assert (done.exit_code, done.stdout.split("\t")[0]) == (0, "hello")
    assert done.stderr.startswith(f"Warning: {tool} 1.0.0: no catalog has {tool}")
    assert done.stderr.count("\n") == 1


def test_a_catalog_that_can_not_be_asked_is_a_warning(ctl, service, tool):
    ctl("install", "hello@2.10.0")
    service.catalog.write_text("{ broken = ")

    done = ctl("outdated")

    assert (done.exit_code, done.stdout.split("\t")[:3]) == (0, ["hello", "2.10.0", "2.12.1"])
    warnings = done.stderr.splitlines()
    assert {line.split(":")[1] for line in warnings} == {f" {tool} 1.0.0", " hello 2.10.0"}
    assert all(str(service.catalog) in line for line in warnings)


@pytest.mark.parametrize("command", ["outdated", "upgrade"])
def test_an_older_server_is_told_in_one_line(unconfigured, command):
    offer = {"version": "1.0.0", "attr": "hello", "catalog": "good"}

    def answer(_, path):
        return FakeAnswer([PACKAGE.body] if "/packages" in path else {"versions": [offer]})

    with FakeServer(answer) as server:
        done = unconfigured(command, "--url", server.url)

    message = "Error: the server is of an older release, which can't tell what is newer\n"
    assert (done.exit_code, done.stderr) == (ExitCode.REFUSED, message)


def test_a_token_that_may_not_ask_is_an_error(unconfigured):
    def answer(_, path):
        return FakeAnswer([PACKAGE.body]) if "/packages" in path else problem(403, "no")

    with FakeServer(answer) as server:
        done = unconfigured("outdated", "--url", server.url)

    assert (done.exit_code, done.stderr) == (ExitCode.NOT_ALLOWED, "Error: no\n")


# --- upgrade ---


def test_an_upgrade_is_one_generation(ctl, offer, tool):
    other = next(names)
    offer(other, "3.0", "2.0")
    ctl("install", f"{other}@2.0")
    ctl("install", "quacker@1.5")
    before = len(ctl.json("generations"))

    done = ctl("upgrade")

    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-5:] == [
        *(f"- {tool} 1.0.0", f"+ {tool} 1.1.0"),
        *(f"- {other} 2.0.0", f"+ {other} 3.0.0"),
        "Success: Upgraded 2 packages",
    ]
    assert active(ctl) == {tool: "1.1.0", other: "3.0.0", "quacker": "1.5.0"}
    assert len(ctl.json("generations")) == before + 1
    assert ctl("upgrade").stdout == "Success: Everything is up to date\n"
    assert ctl.json("upgrade") == []


def test_only_what_is_named_is_upgraded(ctl, tool):
    ctl("install", "hello@2.10.0")

    [change] = ctl.json("upgrade", "hello")

    assert (change["name"], change["installed"], change["newest"]) == ("hello", "2.10.0", "2.12.1")
    assert active(ctl) == {tool: "1.0.0", "hello": "2.12.1"}
    assert ctl("upgrade", tool).stdout.endswith("Success: Upgraded 1 package\n")


def test_a_name_that_is_not_active_is_not_found(ctl, tool):
    done = ctl("upgrade", tool, "nosuch", "hello")

    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert done.stderr.startswith(
        "Error: hello, nosuch: not active (pkgctl list --status activated"
    )
    assert active(ctl) == {tool: "1.0.0"}


def test_a_dry_run_changes_nothing(ctl, tool):
    before = ctl.json("list")

    done = ctl("upgrade", "--dry-run")

    assert (done.exit_code, done.stdout) == (0, f"- {tool} 1.0.0\n+ {tool} 1.1.0\n")
    assert ctl.json("upgrade", "--dry-run") == ctl.json("outdated")
    assert ctl.json("list") == before


def test_a_failed_download_keeps_all_as_it_was(ctl, offer, tool):
    ctl("install", "hello@2.10.0")
    offer(tool, "1.1.0", "1.0.0", script="echo no rule to make it; exit 2")

    done = ctl("upgrade")

    assert done.exit_code == ExitCode.FAILED
    warning, error = done.stderr.splitlines()
    assert warning.startswith(f"Warning: {tool} 1.1.0: ")
    assert error.startswith(
        "Error: 1 of 2 packages could not be had (nothing was activated; --keep-going "
    )
    assert active(ctl) == {tool: "1.0.0", "hello": "2.10.0"}


def test_with_keep_going_the_others_are_activated(ctl, offer, tool):
    ctl("install", "hello@2.10.0")
    offer(tool, "1.1.0", "1.0.0", script="exit 2")

    done = ctl("upgrade", "--keep-going")

    assert (done.exit_code, done.stderr.splitlines()[-1]) == (3, "Error: 1 of 2 downloads failed")
    assert done.stdout.endswith("- hello 2.10.0\n+ hello 2.12.1\nSuccess: Upgraded 1 package\n")
    assert active(ctl) == {tool: "1.0.0", "hello": "2.12.1"}
    again = ctl("upgrade", "--keep-going")
    assert (again.exit_code, again.stderr.splitlines()[-1]) == (3, "Error: 1 of 1 downloads failed")


def test_a_collision_keeps_all_as_it_was_and_names_the_packages(ctl, offer, tool):
    ctl("install", "quacker@1.5")
    offer(tool, "1.1.0", "1.0.0", script="mkdir -p $out/bin; echo other > $out/bin/quacker")

    done = ctl("upgrade")

    assert done.exit_code == ExitCode.REFUSED
    for part in (f"{tool} 1.1.0", "quacker 1.5.0", "bin/quacker"):
        assert part in done.stderr
    assert active(ctl) == {tool: "1.0.0", "quacker": "1.5.0"}


@pytest.fixture
def gated_upgrades(ctl, offer, service):
    """The names of two active packages whose newer versions wait to be built, and their gate."""
    gate = service.gates / next(names)
    pair = [next(names), next(names)]
    for name in pair:
        offer(name, "1.0.0")
        assert ctl("install", name).exit_code == 0
        script = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; mkdir $out"
        offer(name, "1.1.0", script=script)
    yield pair, gate
    gate.touch()


def newest_tasks(service, pair):
    """Return the latest tasks of the newer versions, once there are two."""

    def tasks():
        packages = [service.get(f"packages?name={name}")[-1] for name in pair]
        found = [package["task"] for package in packages if package["version"] == "1.1.0"]
        return found if len(found) == len(pair) and all(found) else None

    return until(tasks)


def test_all_downloads_are_requested_before_one_is_waited_for(ctl, service, gated_upgrades):
    pair, gate = gated_upgrades
    waiting = ctl.start("upgrade")
    ids = [task["id"] for task in newest_tasks(service, pair)]
    until(lambda: all(service.task(task_id)["status"] == "running" for task_id in ids))
    gate.touch()

    exit_code, output, errors = finish(waiting)

    assert (exit_code, errors) == (0, "")
    assert output.endswith("Success: Upgraded 2 packages\n")


def test_an_interrupt_detaches_and_prints_the_command_that_resumes(ctl, service, gated_upgrades):
    pair, gate = gated_upgrades
    waiting = ctl.start("upgrade", *pair, "--keep-going")
    tasks = newest_tasks(service, pair)
    until(lambda: b"begun" in service.task_log(tasks[0]["id"]))
    waiting.send_signal(signal.SIGINT)
    exit_code, _, errors = finish(waiting)

    assert exit_code == ExitCode.INTERRUPTED
    resume = f"pkgctl upgrade {pair[0]} {pair[1]} --keep-going"
    assert errors == f"Interrupted: the task goes on; come back with: {resume}\n"
    gate.touch()
    assert ctl(*resume.split()[1:]).stdout.endswith("Success: Upgraded 2 packages\n")


def test_an_interrupt_cancels_all_with_cancel_on_interrupt(ctl, service, gated_upgrades):
    pair, _ = gated_upgrades
    waiting = ctl.start("upgrade", "--cancel-on-interrupt", "--keep-going")
    tasks = newest_tasks(service, pair)
    until(lambda: b"begun" in service.task_log(tasks[0]["id"]))
    waiting.send_signal(signal.SIGINT)
    exit_code, _, errors = finish(waiting)

    assert (exit_code, errors) == (ExitCode.CANCELLED, "Error: the task was cancelled\n")
    assert [service.ended(task["id"])["status"] for task in tasks] == ["cancelled"] * 2
    assert active(ctl) == dict.fromkeys(pair, "1.0.0")


def test_the_downloads_share_one_time_out(ctl, gated_upgrades):
    pair, _ = gated_upgrades

    done = ctl("upgrade", "--timeout", "0.2")

    assert (done.exit_code, done.stderr.count("the time to wait is over")) == (5, 1)
    assert active(ctl) == dict.fromkeys(pair, "1.0.0")


def test_what_no_catalog_has_any_more_is_not_left_registered(unconfigured):
    offer = {"version": "2.0.0", "catalog": "c", "available": True, "prerelease": False}
    new = PACKAGE.body | {"id": 2, "version": "2.0.0"}
    error = {"code": "version_unavailable", "message": "no catalog has hello 2.0.0", "hint": "…"}
    task = {"status": "failed", "attempt": 1, "waiting": None, "error": error, "id": TASK_ID}
    task["progress"] = {"done": 0, "expected": 0, "phase": None}

    def answer(method, path):
        if "/task/" in path:
            return FakeAnswer(task)
        if "/catalog/" in path:
            return FakeAnswer({"versions": [offer, offer | {"version": "1.0.0"}]})
        if "/download" in path:
            return FakeAnswer({"status": "created", "task_id": TASK_ID})
        return FakeAnswer([PACKAGE.body] if method == "GET" else new)

    with FakeServer(answer) as server:
        done = unconfigured("upgrade", "--keep-going", "--url", server.url)

        assert server.requests[-1][:2] == ("DELETE", "/api/v1/package/2")
    assert done.exit_code == ExitCode.NOT_FOUND


def test_a_server_that_goes_away_ends_the_waiting(unconfigured):
    offer = {"version": "2.0.0", "catalog": "c", "available": True, "prerelease": False}

    def answer(method, path):
        if "/task/" in path:
            return None
        if "/catalog/" in path:
            return FakeAnswer({"versions": [offer, offer | {"version": "1.0.0"}]})
        if "/download" in path:
            return FakeAnswer({"status": "created", "task_id": TASK_ID})
        return FakeAnswer([PACKAGE.body] if method == "GET" else PACKAGE.body)

    with FakeServer(answer) as server:
        options = ("--url", server.url, "--patience", "0")
        done = unconfigured("upgrade", "--keep-going", "--cancel-on-interrupt", *options)

        assert server.count("/cancel") == 0
    assert done.exit_code == ExitCode.UNREACHABLE
