"""The worker pool a step at a time: what a download comes to, and what it waits for."""

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import figures
import psycopg
import pytest
from conftest import CATALOGS, until
from recipes import Recipes
from sqlalchemy import event, update

import leases
import nix
from models import Package, Task, db, soon
from store import PROGRAMS

ENDLESS = "echo started; while :; do sleep 0.1; done"


@pytest.fixture
def recipes(tmp_path):
    """Packages that the test makes up."""
    return Recipes(tmp_path)


@pytest.fixture
def settings(settings, recipes):
    """The configuration, with the test's own packages among what the catalogs offer."""
    return settings | {"CATALOGS": f"{settings['CATALOGS']} {recipes.catalog}"}


@pytest.fixture
def look(client):
    """Return a function that returns a task as it is now."""
    return lambda task_id: client.get(f"/api/v1/task/{task_id}").json


@pytest.fixture
def read_log(client):
    """Return a function that returns a task's log as text."""

    def read_log(task_id, **query):
        return client.get(f"/api/v1/task/{task_id}/log", query_string=query).text

    return read_log


@pytest.fixture
def run(schedule, pool, look):
    """Return a function that schedules a download, runs it, and returns the task."""

    def run(name, version="1.0.0"):
        task_id = schedule(name, version)
        assert pool.run_one()
        return look(task_id)

    return run


@pytest.fixture
def aside(pool):
    """Return a function that starts one step of the pool in a thread, to be joined by the test."""
    threads = []

    def aside():
        threads.append(Thread(target=pool.run_one))
        threads[-1].start()
        return threads[-1]

    yield aside
    pool.stopping.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def started(schedule, aside, read_log):
    """Return a function that starts a download and returns the task's id when its build runs."""

    def started(name):
        task_id = schedule(name, "1.0.0")
        thread = aside()
        until(lambda: "started" in read_log(task_id))
        return task_id, thread

    return started


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all of PATH, with the programs that the service needs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for program in ("setpriv", *PROGRAMS):
        (folder / program).symlink_to(shutil.which(program))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def fake(programs, name, script):
    """Put a script in the place of one of the programs."""
    real = (programs / name).readlink()
    (programs / name).unlink()
    (programs / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script.format(real=real)}\n")
    (programs / name).chmod(0o755)


def test_a_download_ends_with_a_valid_and_rooted_store_path(app, client, recipes, run, store):
    task = run(recipes.add("plain"))

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (task["status"], package["status"]) == ("succeeded", "downloaded")
    assert nix.valid_paths(store, [package["store_path"]]) == {package["store_path"]}
    roots = (app.config["DATA_DIR"] / "roots").iterdir()
    assert [root.readlink().as_posix() for root in roots] == [package["store_path"]]


def test_a_download_leaves_no_process_and_no_temporary_files(app, recipes, run):
    run(recipes.add_watched("forks", "setsid sleep 60 >/dev/null 2>&1 &"))

    assert not recipes.is_building("forks")
    assert list((app.config["DATA_DIR"] / "tmp").rglob("*")) == []


@pytest.mark.parametrize(
    ("name", "version", "code", "words"),
    [
        ("nosuch", "1.0.0", "name_unknown", "no catalog has nosuch"),
        ("hello", "9.9.9", "version_unavailable", "there is 2.12.1, 2.10.0"),
        ("unfree", "1.0.0", "evaluation_failed", "a licence that is not allowed"),
        ("fails", "1.0.0", "build_failed", "> step 3\n> no rule to make target 'all'"),
    ],
)
def test_a_failure_says_what_went_wrong(run, read_log, name, version, code, words):
    task = run(name, version)

    assert (task["status"], task["error"]["code"]) == ("failed", code)
    assert words in task["error"]["message"]
    assert task["error"]["hint"]
    assert read_log(task["id"]).endswith(f"pkgd: failed: {code}\n")


def test_a_wrong_hash_is_told_with_both_hashes(run):
    error = run("wrong-hash")["error"]

    assert error["code"] == "hash_mismatch"
    assert re.search(r"specified: +sha256-AAAA\S+\s+got: +sha256-\S{44}", error["message"])


@pytest.mark.parametrize(
    ("limit", "script", "words"),
    [
        ("SILENCE_SECONDS", "echo started; sleep 60", "it wrote nothing for 1 s"),
        ("BUILD_SECONDS", ENDLESS.replace("sleep", "echo; sleep"), "it ran longer than 1 s"),
    ],
)
def test_a_build_past_a_limit_is_told_which(app, recipes, run, limit, script, words):
    app.config[limit] = 1

    task = run(recipes.add_watched("slow", script))

    assert (task["status"], task["error"]["code"]) == ("failed", "timed_out")
    assert task["error"]["message"].startswith(words)
    until(lambda: not recipes.is_building("slow"))


def test_a_failed_download_can_be_repeated(client, recipes, run, pool):
    task = run(recipes.add("moody", "exit 1"))

    recipes.add("moody", "touch $out")
    again = client.post(f"/api/v1/package/{task['package_id']}/download").json
    assert pool.run_one()

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (package["status"], package["task"]["id"]) == ("downloaded", again["task_id"])


def test_without_room_on_the_disk_tasks_wait_and_say_why(app, schedule, pool, look):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()

    assert not pool.run_one()
    pool.keep_once()

    task = look(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert re.search(rf"has \d+ bytes free; tasks wait until there are {2**60}", task["waiting"])


def test_with_room_again_tasks_go_on(app, schedule, pool, look):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()
    pool.keep_once()

    app.config["MIN_FREE_BYTES"] = 1

    assert pool.run_one()
    assert (look(task_id)["status"], look(task_id)["waiting"]) == ("succeeded", None)


@pytest.mark.parametrize("program", ["nix-build", "setpriv"])
def test_without_nix_tasks_wait_and_say_why(programs, program, schedule, pool, look, database_url):
    real = (programs / program).readlink()
    (programs / program).unlink()
    task_id = schedule()

    assert not pool.run_one()
    with suppress(nix.NixMissing):  # what there is to reconcile waits as well
        pool.keep_once()

    assert look(task_id)["waiting"] == f"{program} is not on PATH"
    (programs / program).symlink_to(real)
    assert pool.run_one()
    assert look(task_id)["status"] == "succeeded"
    figures.keep(
        f"{program} missing, then there again",
        database_url,
        "once",
        "the task waited with the reason shown, and went on; no attempt counted",
    )


def test_nix_that_goes_missing_meanwhile_costs_no_attempt(programs, run):
    fake(programs, "nix-instantiate", f'rm {programs}/nix-build; exec {{real}} "$@"')

    task = run("hello", "2.12.1")

    assert (task["status"], task["attempt"]) == ("queued", 0)


def test_when_nix_crashes_three_times_the_task_is_lost(
    programs, recipes, run, pool, look, database_url
):
    fake(programs, "nix-build", "kill -SEGV $$")

    task = run(recipes.add("unlucky"))
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert pool.run_one()
    assert pool.run_one()

    task = look(task["id"])
    assert (task["status"], task["attempt"], task["error"]["code"]) == ("failed", 3, "lost")
    assert not pool.run_one()
    figures.keep("nix-build ended by SIGSEGV", database_url, "3 attempts", "failed with `lost`")


def test_each_attempt_has_a_log_of_its_own(programs, recipes, run, pool, read_log):
    once = f"mkdir {programs}/crashed && kill -SEGV $$"
    fake(programs, "nix-build", f'{once}\nexec {{real}} "$@"')

    task_id = run(recipes.add("unlucky"))["id"]
    assert pool.run_one()

    first, second = (read_log(task_id, attempt=number) for number in (1, 2))
    assert first.startswith("pkgd: attempt 1:")
    assert first.endswith("pkgd: nix-build was ended by SIGSEGV\n")
    assert second.startswith("pkgd: attempt 2:")
    assert read_log(task_id) == second


def test_a_log_past_its_limit_is_cut_and_the_build_goes_on(app, recipes, run, read_log):
    app.config["LOG_BYTES"] = 600

    task = run(recipes.add("talks", "seq 10000; touch $out"))

    lines = read_log(task["id"]).splitlines()
    cut = lines.index("pkgd: the log is cut here, at its limit of 600 bytes; the build goes on")
    assert lines[cut - 1] == str(int(lines[cut - 2]) + 1)
    assert len(read_log(task["id"])) < 1000
    assert (task["status"], lines[cut + 1][:16]) == ("succeeded", "pkgd: downloaded")


def test_colours_and_bytes_that_are_no_text_do_no_harm(recipes, run, read_log):
    script = r"printf '\033[31mred\033[0m caf\303\251 \377\376 end\n'; touch $out"

    log = read_log(run(recipes.add("gaudy", script))["id"])

    assert "\nred caf\N{LATIN SMALL LETTER E WITH ACUTE} \ufffd\ufffd end\n" in log


def test_a_running_build_is_cancelled(client, recipes, started, look, read_log):
    task_id, thread = started(recipes.add_watched("endless", ENDLESS))

    answer = client.post(f"/api/v1/task/{task_id}/cancel")
    thread.join(10)

    assert (answer.status_code, answer.json["status"]) == (202, "running")
    assert look(task_id)["status"] == "cancelled"
    assert not recipes.is_building("endless")
    assert read_log(task_id).endswith("pkgd: cancelled\n")


def test_a_stop_puts_the_task_back_and_ends_its_build(recipes, started, pool, look, read_log):
    task_id, thread = started(recipes.add_watched("endless", ENDLESS))

    pool.stopping.set()
    thread.join(10)

    task = look(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert not recipes.is_building("endless")
    assert read_log(task_id).endswith("pkgd: the service stops; the task goes back to the queue\n")


def test_who_loses_the_lease_ends_its_build_and_writes_nothing(
    app, recipes, started, look, read_log
):
    task_id, thread = started(recipes.add_watched("endless", ENDLESS))

    expire(app)
    with app.app_context():
        leases.reap()
        assert leases.claim("another", 60).attempt == 2
    before = look(task_id), read_log(task_id, attempt=1)
    thread.join(10)

    assert not recipes.is_building("endless")
    assert (look(task_id), read_log(task_id, attempt=1)) == before


def expire(app):
    """Let every lease run out."""
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=soon(-1)))
        db.session.commit()


def test_who_loses_the_lease_leaves_the_next_attempt_alone(app, make_app, recipes, started, look):
    task_id, thread = started(recipes.add_watched("endless", ENDLESS))
    other = make_app().extensions["pool"]
    expire(app)

    other.start()
    thread.join(10)
    until(lambda: recipes.said("endless") == ["start", "start"])

    assert recipes.is_building("endless")
    assert (look(task_id)["status"], look(task_id)["attempt"]) == ("running", 2)
    assert recipes.built_twice_at_once() == []


@contextmanager
def outage(url):
    """Keep everybody else from writing to the database."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.close()
        return
    with psycopg.connect(url.replace("/tests?", "/postgres?"), autocommit=True) as connection:
        allow = "ALTER DATABASE tests ALLOW_CONNECTIONS {}"
        connection.execute(allow.format("false"))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tests'"
        )
        yield
        connection.execute(allow.format("true"))


@pytest.fixture
def impatient(app):
    """The application, with short leases, and no patience with a locked SQLite database."""
    app.config["LEASE_SECONDS"] = 2

    def hurry(connection, _record, _proxy):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA busy_timeout = 100")

    with app.app_context():
        event.listen(db.engine, "checkout", hurry)
    return app


def test_a_build_goes_on_over_a_short_outage_of_the_database(
    impatient, database_url, recipes, started, look, caplog, tmp_path
):
    task_id, thread = started(recipes.add("patient", f"echo started; {wait_for(tmp_path / 'go')}"))

    with outage(database_url):
        until(lambda: f"task {task_id}: database:" in caplog.text)
    (tmp_path / "go").touch()
    thread.join(10)

    assert (look(task_id)["status"], look(task_id)["attempt"]) == ("succeeded", 1)


def test_an_end_that_falls_into_an_outage_is_written_after_it(
    app, impatient, database_url, recipes, started, look, caplog, tmp_path
):
    task_id, thread = started(recipes.add("patient", f"echo started; {wait_for(tmp_path / 'go')}"))

    with outage(database_url):
        (tmp_path / "go").touch()
        until(lambda: not list((app.config["DATA_DIR"] / "tmp" / task_id).iterdir()))
        before = caplog.text.count("database:")
        until(lambda: caplog.text.count("database:") > before + 1)
    thread.join(10)

    assert (look(task_id)["status"], look(task_id)["attempt"]) == ("succeeded", 1)


def wait_for(path):
    """Return a line of shell that waits for a file, and makes the output then."""
    return f"until [ -e {path} ]; do sleep 0.05; done; touch $out"


def test_a_build_ends_with_an_outage_that_is_longer_than_its_lease(
    impatient, database_url, recipes, started, look, pool
):
    task_id, thread = started(recipes.add_watched("endless", ENDLESS))

    with outage(database_url):
        thread.join(10)
        assert not recipes.is_building("endless")

    recipes.add_watched("endless", "true")
    until(lambda: pool.keep_once() or pool.run_one())
    assert (look(task_id)["status"], look(task_id)["attempt"]) == ("succeeded", 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="a store elsewhere needs root's rights to build")
def test_builds_go_to_the_machines_in_builders(make_app, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    app = make_app(
        BUILDERS=f"ssh-ng://localhost?remote-store={elsewhere} builtin",
        CATALOGS=CATALOGS / "builtin.nix",
    )
    app.extensions["store"] = nix.private_store(tmp_path / "store", sandbox="true")
    with app.app_context():
        package = queue("anywhere")

        assert app.extensions["pool"].run_one()

        db.session.refresh(package)
        assert package.status == "downloaded"
    assert list(elsewhere.glob(f"**/store/{Path(package.store_path).name}"))


def queue(name):
    """Register a package and queue its download, in the application's context."""
    package = Package(name=name, version="1.0.0")
    db.session.add(package)
    db.session.commit()
    Task.queue(package.id)
    return package


def test_what_a_dead_pool_held_runs_again_at_once(app, make_app, schedule, pool, look):
    task_id = schedule()
    dead = make_app().extensions["pool"]
    with app.app_context():
        assert leases.claim(dead.holder_id, 30)
    dead._holder._file.close()

    pool.start()

    task = until(lambda: look(task_id)["status"] == "succeeded" and look(task_id), 10)
    assert task["attempt"] == 2


def test_what_a_living_pool_holds_is_left_to_it(app, make_app, schedule, pool, look):
    task_id = schedule()
    living = make_app().extensions["pool"]
    with app.app_context():
        assert leases.claim(living.holder_id, 30)

    pool.keep_once()

    assert (look(task_id)["status"], look(task_id)["attempt"]) == ("running", 1)


def test_an_idle_thread_wakes_for_a_task_of_its_own_process(
    client, register, pool, look, monkeypatch
):
    monkeypatch.setattr("worker.POLL_SECONDS", 600)  # only being woken makes a thread look
    ids = [register(version=f"{n}.0.0") for n in range(9)]
    pool.start()
    until(lambda: pool.is_running)

    for package_id in ids:
        answer = client.post(f"/api/v1/package/{package_id}/download")
        until(lambda task_id=answer.json["task_id"]: look(task_id)["finished_at"])


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), nix.NixError("odd")])
def test_a_step_that_fails_does_not_end_its_thread(pool, fault):
    steps = []

    def step():
        steps.append(fault)
        if len(steps) == 3:
            pool.stopping.set()
        raise fault

    pool.run(step, lambda: None)

    assert len(steps) == 3


def test_a_disk_without_room_for_temporary_files_fails_the_task(app, schedule, pool, look):
    task_id = schedule()
    with full(app.config["DATA_DIR"] / "tmp"):
        assert pool.run_one()

    error = look(task_id)["error"]
    assert error["code"] == "disk_full"
    assert "No space left on device" in error["message"]


@contextmanager
def full(folder):
    """Make the folder one in which nothing more can be made."""
    folder.mkdir()
    options = "size=64k,nr_inodes=1"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root's rights")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_any_other_fault_leaves_the_task_to_its_lease(app, schedule, pool, look):
    task_id = schedule()
    (app.config["DATA_DIR"] / "tmp").write_text("not a folder")

    with pytest.raises(OSError, match="Not a directory"):
        pool.run_one()

    assert look(task_id)["status"] == "running"
