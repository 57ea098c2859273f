"""One run of a task: its result, its log and its lease."""

import re
import sqlite3
import subprocess
from contextlib import closing, contextmanager

import psycopg
import pytest
from sqlalchemy import delete, event, select, update
from support import SQLITE, no_descriptors, until

import leases
import nix
import services
import task_queue
from models import Package, Task, db, soon
from worker import Pool

pytestmark = pytest.mark.usefixtures("recipes")

ENDLESS = "echo started; while :; do sleep 0.1; done"


def test_a_download_ends_with_a_valid_and_rooted_store_path(app, client, recipes, run_task, store):
    task = run_task(recipes.add("plain"))

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (task["status"], package["status"]) == ("succeeded", "downloaded")
    assert nix.valid_paths(store, [package["store_path"]]) == {package["store_path"]}
    roots = (app.config["DATA_DIR"] / "roots").iterdir()
    assert [root.readlink().as_posix() for root in roots] == [package["store_path"]]


@SQLITE
def test_a_download_leaves_no_process_and_no_temporary_files(app, recipes, run_task):
    run_task(recipes.add_watched("forks", "setsid sleep 60 >/dev/null 2>&1 &"))

    assert not recipes.is_building("forks")
    assert list((app.config["DATA_DIR"] / "tmp").rglob("*")) == []


@SQLITE
@pytest.mark.parametrize(
    ("name", "version", "code", "message"),
    [
        ("nosuch", "1.0.0", "name_unknown", "no catalog has nosuch"),
        ("hello", "9.9.9", "version_unavailable", "to be had: 2.12.1, 2.10.0"),
        ("unfree", "1.0.0", "evaluation_failed", "a licence that is not allowed"),
        ("fails", "1.0.0", "build_failed", "> step 3\n> no rule to make target 'all'"),
    ],
)
def test_a_failed_task_has_a_code_a_message_and_a_hint(
    run_task, read_log, name, version, code, message
):
    task = run_task(name, version)

    assert (task["status"], task["error"]["code"]) == ("failed", code)
    assert message in task["error"]["message"]
    assert task["error"]["hint"] not in (None, "")
    assert read_log(task["id"]).endswith(f"pkgd: failed: {code}\n")


@SQLITE
def test_a_refused_package_keeps_where_it_is_and_its_task_the_reason(run_task, client):
    task = run_task("unfree-by-rule")

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (task["error"]["code"], task["error"]["reason"]) == ("refused", "unfree")
    assert (package["attr"], package["spelled"]) == ("unfree-by-rule", "1.0.0")
    assert package["catalog"].endswith("trouble.nix")
    assert (package["status"], package["drv_path"]) == ("created", None)


@SQLITE
def test_a_package_that_fails_keeps_its_derivation(run_task, client):
    task = run_task("fails")

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (package["attr"], package["spelled"], package["status"]) == ("fails", "1.0.0", "created")
    assert package["drv_path"].endswith("-fails-1.0.0.drv")


@SQLITE
def test_a_hash_mismatch_names_both_hashes(run_task):
    error = run_task("wrong-hash")["error"]

    assert error["code"] == "hash_mismatch"
    assert re.search(r"specified: +sha256-AAAA\S+\s+got: +sha256-\S{44}", error["message"])


@SQLITE
def test_a_failure_of_another_program_of_nix_is_a_failed_build(replace_program, run_task):
    replace_program(
        "nix-store", '[ "$1" = --realise ] && echo "error: no root" >&2 && exit 1; exec $real "$@"'
    )

    error = run_task("parted")["error"]

    assert (error["code"], error["message"]) == ("build_failed", "no root")
    assert error["hint"] == "read the message, then the service's log"


@SQLITE
@pytest.mark.parametrize(
    ("limit", "script", "reason"),
    [
        ("SILENCE_SECONDS", "echo started; sleep 60", "it wrote nothing for 1 s"),
        ("BUILD_SECONDS", ENDLESS.replace("sleep", "echo; sleep"), "it ran longer than 1 s"),
    ],
)
def test_a_build_past_a_limit_fails_with_the_limit(app, recipes, run_task, limit, script, reason):
    app.config[limit] = 1

    task = run_task(recipes.add_watched("slow", script))

    assert (task["status"], task["error"]["code"]) == ("failed", "timed_out")
    assert task["error"]["message"].startswith(reason)
    until(lambda: not recipes.is_building("slow"))


def test_a_failed_download_can_be_tried_again(client, recipes, run_task, pool):
    task = run_task(recipes.add("moody", "exit 1"))

    recipes.add("moody", "touch $out")
    again = client.post(f"/api/v1/package/{task['package_id']}/download").json
    assert pool.run_one()

    package = client.get(f"/api/v1/package/{task['package_id']}").json
    assert (package["status"], package["task"]["id"]) == ("downloaded", again["task_id"])


def test_each_attempt_has_a_log_of_its_own(
    replace_program, recipes, run_task, pool, read_log, monkeypatch
):
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0, 0))
    replace_program("nix-build", 'mkdir $0.crashed && kill -SEGV $$; exec $real "$@"')

    task_id = run_task(recipes.add("unlucky"))["id"]
    assert pool.run_one()

    first, second = (read_log(task_id, attempt=number) for number in (1, 2))
    assert first.startswith("pkgd: attempt 1:")
    said = "pkgd: nix-build was ended by SIGSEGV\npkgd: the next attempt follows in 0 s\n"
    assert first.endswith(said)
    assert second.startswith("pkgd: attempt 2:")
    assert read_log(task_id) == second


@SQLITE
def test_a_log_past_its_limit_is_cut_and_the_build_goes_on(app, recipes, run_task, read_log):
    app.config["LOG_BYTES"] = 600

    task = run_task(recipes.add("talks", "seq 10000; touch $out"))

    lines = read_log(task["id"]).splitlines()
    cut = lines.index("pkgd: the log is cut here, at its limit of 600 bytes; the build goes on")
    assert lines[cut - 1] == str(int(lines[cut - 2]) + 1)
    assert len(read_log(task["id"])) < 1000
    assert (task["status"], lines[cut + 1][:16]) == ("succeeded", "pkgd: downloaded")


def test_a_log_is_text_without_colours_and_invalid_bytes(recipes, run_task, read_log):
    script = r"printf '\033[31mred\033[0m caf\303\251 \377\376 end\n'; touch $out"

    log = read_log(run_task(recipes.add("gaudy", script))["id"])

    assert "\nred caf\N{LATIN SMALL LETTER E WITH ACUTE} \ufffd\ufffd end\n" in log


# Colours, a title, a C1 control as UTF-8 and as one byte, a bell, the direction of writing.
HOSTILE = r"\033[31mred\033[0m\033]0;title\007\302\2331m\2331m\007\342\200\256\033]8;;x\033\\ end\n"


@pytest.mark.parametrize("ending", ["touch $out", "exit 3"])
def test_neither_log_nor_error_of_a_build_can_control_a_terminal(
    recipes, run_task, read_log, ending
):
    task = run_task(recipes.add("hostile", f"printf '{HOSTILE}'; {ending}"))

    log, message = read_log(task["id"]), (task["error"] or {}).get("message", "")
    assert re.search("^red(\ufffd1m)? end$", log, re.MULTILINE)
    assert "".join((log, message)).replace("\n", "").isprintable()
    assert ("> red" in message) == (ending == "exit 3")


def test_an_escape_sequence_that_a_build_writes_in_pieces_is_not_in_its_log(
    recipes, start_build, read_log, get_task
):
    halves = r"printf 'a\033[3'", recipes.gate("rest"), r"printf '1mb\n'; touch $out"
    task_id, thread = start_build(recipes.add("split", "; ".join(("echo started", *halves))))
    assert "\x1b" not in read_log(task_id)

    recipes.open("rest")
    thread.join()

    assert "\nab\n" in read_log(task_id)


def test_a_running_build_is_cancelled(client, recipes, start_build, get_task, read_log):
    task_id, thread = start_build(recipes.add_watched("endless", ENDLESS))

    answer = client.post(f"/api/v1/task/{task_id}/cancel")
    thread.join(10)

    assert (answer.status_code, answer.json["status"]) == (202, "running")
    assert get_task(task_id)["status"] == "cancelled"
    assert not recipes.is_building("endless")
    assert read_log(task_id).endswith("pkgd: cancelled\n")


def test_a_worker_that_loses_its_lease_ends_its_build_and_writes_nothing(
    app, recipes, start_build, get_task, read_log
):
    task_id, thread = start_build(recipes.add_watched("endless", ENDLESS))

    expire(app)
    with app.app_context():
        leases.reap()
        assert task_queue.claim("another", 60).attempt == 2
    before = get_task(task_id), read_log(task_id, attempt=1)
    thread.join(10)

    assert not recipes.is_building("endless")
    assert (get_task(task_id), read_log(task_id, attempt=1)) == before


def test_a_worker_whose_task_is_gone_ends_its_build_and_writes_nothing(
    app, recipes, start_build, caplog
):
    _, thread = start_build(recipes.add_watched("endless", ENDLESS))

    with app.app_context():
        db.session.execute(delete(Package))
        db.session.commit()
    thread.join(10)

    assert not recipes.is_building("endless")
    assert "its lease is gone, nothing more is written" in caplog.text


def expire(app):
    """Let all leases run out."""
    with app.app_context():
        db.session.execute(update(Task).values(lease_until=soon(-1)))
        db.session.commit()


def test_a_worker_that_loses_its_lease_does_not_disturb_the_next_attempt(
    app, make_app, recipes, start_build, get_task
):
    task_id, thread = start_build(recipes.add_watched("endless", ENDLESS))
    other = services.get(Pool, make_app())
    expire(app)

    other.start()
    thread.join(10)
    until(lambda: recipes.said("endless") == ["start", "start"])

    assert recipes.is_building("endless")
    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("running", 2)
    assert recipes.built_twice_at_once() == []


@contextmanager
def outage(url):
    """Make the database unavailable for everything else in the `with` block."""
    if url.startswith("sqlite"):
        file = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
        return

    with psycopg.connect(url.replace("/tests?", "/postgres?"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE tests ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tests'"
        )
        try:
            yield
        finally:
            connection.execute("ALTER DATABASE tests ALLOW_CONNECTIONS true")


def test_the_lease_of_a_build_that_writes_nothing_is_renewed(app, recipes, start_build, get_task):
    app.config["LEASE_SECONDS"] = 6
    script = f"echo started; {recipes.gate('go')}; touch $out"
    task_id, thread = start_build(recipes.add("quiet", script))

    def lease_until():
        with app.app_context():
            return db.session.scalar(select(Task.lease_until))

    # Long enough for all that the build has written to be stored, so that the last one has no log.
    first = lease_until()
    second = until(lambda: (later := lease_until()) > first and later)
    until(lambda: lease_until() > second)
    recipes.open("go")
    thread.join(10)

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 1)


@pytest.fixture
def impatient(app):
    """The application with short leases, which waits for a locked SQLite database only briefly."""
    app.config["LEASE_SECONDS"] = 2

    def hurry(connection, _record, _proxy):
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA busy_timeout = 100")

    with app.app_context():
        event.listen(db.engine, "checkout", hurry)
    return app


def test_a_build_goes_on_through_a_short_outage_of_the_database(
    impatient, database_url, recipes, start_build, get_task, caplog
):
    impatient.config["LEASE_SECONDS"] = 20  # longer than the outage, also on a slow machine
    task_id, thread = start_build(
        recipes.add("patient", f"echo started; {recipes.gate('go')}; touch $out")
    )

    with outage(database_url):
        until(lambda: f"task {task_id}: database:" in caplog.text)
    recipes.open("go")
    thread.join(10)

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 1)


def test_the_end_of_a_task_is_written_after_an_outage(
    app, impatient, database_url, recipes, start_build, get_task, caplog
):
    impatient.config["LEASE_SECONDS"] = 20  # longer than the outage, also on a slow machine
    task_id, thread = start_build(
        recipes.add("patient", f"echo started; {recipes.gate('go')}; touch $out")
    )

    with outage(database_url):
        recipes.open("go")
        until(lambda: not list((app.config["DATA_DIR"] / "tmp" / task_id).iterdir()))
        before = caplog.text.count("database:")
        until(lambda: caplog.text.count("database:") > before + 1)
    thread.join(10)

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 1)


def test_a_build_is_ended_by_an_outage_longer_than_its_lease(
    impatient, database_url, recipes, start_build, get_task, pool
):
    task_id, thread = start_build(recipes.add_watched("endless", ENDLESS))

    with outage(database_url):
        thread.join(10)
        assert not recipes.is_building("endless")

    recipes.add_watched("endless", "true")
    until(lambda: pool.maintain_once() or pool.run_one())
    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 2)


@SQLITE
def test_a_task_fails_on_a_disk_without_space_for_temporary_files(app, schedule, pool, get_task):
    task_id = schedule()
    with full(app.config["DATA_DIR"] / "tmp"):
        assert pool.run_one()

    error = get_task(task_id)["error"]
    assert error["code"] == "disk_full"
    assert "No space left on device" in error["message"]


@contextmanager
def full(folder):
    """Mount a disk at the folder that has no space for a single file."""
    folder.mkdir()
    options = "size=64k,nr_inodes=1"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root's rights")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@SQLITE
def test_an_attempt_without_file_descriptors_does_not_count(app, schedule, pool, get_task):
    task_id = schedule()
    assert pool.holder_id
    assert pool.obstacle() is None  # as it answers for some seconds
    (app.config["DATA_DIR"] / "tmp" / task_id).mkdir(parents=True)  # a killed attempt's

    with no_descriptors():
        assert pool.run_one()

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("queued", 0)
    assert until(pool.run_one)
    assert get_task(task_id)["status"] == "succeeded"
