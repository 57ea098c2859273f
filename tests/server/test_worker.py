"""The worker pool: what tasks wait for, how they end, and the holders of leases."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import figures
import pytest
from sandbox import sandboxed_store
from service import ROOT
from sqlalchemy.exc import OperationalError
from support import CATALOGS, SQLITE, bearing, until

import nix
import services
import task_queue
from database import KNOWN
from models import Package, db
from worker import Holder, Pool, dead_holders, remove_dead_holders

pytestmark = pytest.mark.usefixtures("recipes")

ENDLESS = "echo started; while :; do sleep 0.1; done"


@SQLITE
def test_tasks_wait_for_free_disk_space_and_show_the_reason(app, schedule, pool, get_task):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()

    assert not pool.run_one()
    pool.maintain_once()

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert f"has less than {2**60} bytes free; tasks wait" in task["waiting"]


@SQLITE
def test_a_pool_leaves_a_database_that_a_later_version_upgrades_to_that_one(
    app, schedule, pool, get_task, caplog
):
    task_id = schedule()

    for revision, is_taken in (("9999", False), (KNOWN[-1], True)):
        with app.app_context(), db.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        pool.maintain_once()
        pool.maintain_once()
        assert pool.run_one() == is_taken

    assert get_task(task_id)["status"] == "succeeded"
    assert caplog.text.count("no task is taken: the schema is 9999") == 1


def test_tasks_go_on_when_the_disk_has_space_again(app, schedule, pool, get_task):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()
    pool.maintain_once()

    app.config["MIN_FREE_BYTES"] = 1

    assert pool.run_one()
    assert (get_task(task_id)["status"], get_task(task_id)["waiting"]) == ("succeeded", None)


@SQLITE
@pytest.mark.parametrize("program", ["nix-build", "setpriv"])
def test_tasks_wait_for_nix_and_show_the_reason(
    programs, program, schedule, pool, get_task, database_url
):
    real = (programs / program).readlink()
    (programs / program).unlink()
    task_id = schedule()

    assert not pool.run_one()
    with suppress(nix.NixMissing):  # the reconciliation of a start needs Nix, too
        pool.maintain_once()

    assert get_task(task_id)["waiting"] == f"{program} is not on PATH"
    (programs / program).symlink_to(real)
    assert pool.run_one()
    assert get_task(task_id)["status"] == "succeeded"
    figures.keep(
        f"{program} missing, then there again",
        database_url,
        "once",
        "the task waited with the reason shown, and went on; no attempt counted",
    )


@SQLITE
def test_an_attempt_during_which_nix_disappears_does_not_count(
    programs, replace_program, recipes, run_task
):
    replace_program("nix-instantiate", f'rm {programs}/nix-build; exec $real "$@"')

    task = run_task(recipes.add("unbuilt"))

    assert (task["status"], task["attempt"]) == ("queued", 0)


def test_when_nix_crashes_three_times_the_task_fails_and_says_so(
    replace_program, recipes, run_task, pool, get_task, database_url, monkeypatch
):
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0, 0))
    replace_program("nix-build", "kill -SEGV $$")

    task = run_task(recipes.add("unlucky"))
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert pool.run_one()
    assert pool.run_one()

    task = get_task(task["id"])
    assert (task["status"], task["attempt"]) == ("failed", 3)
    assert task["error"]["code"] == "nix_unavailable"
    assert task["error"]["message"] == "nix-build was ended by SIGSEGV"
    assert not pool.run_one()
    figures.keep(
        "nix-build ended by SIGSEGV", database_url, "3 attempts", "failed with `nix_unavailable`"
    )


def test_a_stop_requeues_the_task_and_ends_its_build(
    recipes, start_build, pool, get_task, read_log
):
    task_id, thread = start_build(recipes.add_watched("endless", ENDLESS))

    pool.stopping.set()
    thread.join(10)

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert not recipes.is_building("endless")
    assert read_log(task_id).endswith("pkgd: the service stops; the task goes back to the queue\n")


@SQLITE
@pytest.mark.skipif(os.geteuid() != 0, reason="building in another store needs root")
def test_builds_run_on_the_machines_in_builders(make_app, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    app = make_app(
        BUILDERS=f"ssh-ng://localhost?remote-store={elsewhere} builtin",
        CATALOGS=CATALOGS / "builtin.nix",
    )
    services.add(app, sandboxed_store(tmp_path / "store"))
    with app.app_context():
        package = queue("anywhere")

        assert services.get(Pool, app).run_one()

        db.session.refresh(package)
        assert package.status == "downloaded"
    assert list(elsewhere.glob(f"**/store/{Path(package.store_path).name}"))


def queue(name):
    """Register a package and queue its download, in the application's context."""
    package = Package(name=name, version="1.0.0")
    db.session.add(package)
    db.session.commit()
    task_queue.add(package.id)
    return package


def test_a_task_of_a_dead_pool_runs_again_before_its_lease_ends(
    app, holders, schedule, pool, get_task
):
    task_id = schedule()
    with app.app_context():
        assert task_queue.claim(dead_holder(holders), lease_seconds=600)

    pool.start()

    until(lambda: get_task(task_id)["status"] == "succeeded")
    assert get_task(task_id)["attempt"] == 2


def test_a_task_of_a_running_pool_is_not_requeued(app, make_app, schedule, pool, get_task):
    task_id = schedule()
    living = services.get(Pool, make_app())
    with app.app_context():
        assert task_queue.claim(living.holder_id, 30)

    pool.maintain_once()

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("running", 1)


@SQLITE
def test_processes_of_a_killed_worker_are_ended_once_their_task_is_cancelled(
    app, client, schedule, pool, recipes
):
    task_id = schedule(recipes.add("slow"), "1.0.0")
    place = app.config["DATA_DIR"] / "tmp" / task_id / "1"
    place.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"], env={"TMPDIR": place}) as left:
        pool.maintain_once()
        assert left.poll() is None

        client.post(f"/api/v1/task/{task_id}/cancel")
        pool.maintain_once()

        until(lambda: left.poll() is not None)
    assert not place.parent.exists()


def test_a_new_task_wakes_an_idle_thread_of_the_same_process(
    client, register, pool, get_task, monkeypatch
):
    monkeypatch.setattr("worker.POLL_SECONDS", 600)  # longer than the test: threads must be woken
    ids = [register(version=f"{n}.0.0") for n in range(9)]
    pool.start()
    until(lambda: pool.fault() is None)

    for package_id in ids:
        answer = client.post(f"/api/v1/package/{package_id}/download")
        until(lambda task_id=answer.json["task_id"]: get_task(task_id)["finished_at"])


@SQLITE
def test_a_new_task_wakes_an_idle_thread_of_another_process(
    make_app, register, pool, get_task, monkeypatch, client
):
    monkeypatch.setattr("worker.POLL_SECONDS", 600)
    pool.start()
    until(lambda: pool.fault() is None)
    other = bearing(make_app(WORKER_THREADS=0), client.secret)

    answer = other.post(f"/api/v1/package/{register()}/download")

    until(lambda: get_task(answer.json["task_id"])["finished_at"])


@SQLITE
def test_upkeep_goes_on_where_nobody_wakes_it(app, schedule, pool, get_task, monkeypatch):
    monkeypatch.setattr("worker.MAINTAIN_SECONDS", 0.02)
    app.config["MIN_FREE_BYTES"] = 2**60
    pool.start()
    until(lambda: pool.fault() is None)

    task_id = schedule()

    until(lambda: get_task(task_id)["waiting"])


@SQLITE
def test_tasks_are_found_where_there_can_be_no_pipes(app, pool, get_task, schedule):
    (app.config["DATA_DIR"] / "wakeups").touch()
    pool.start()

    task_id = schedule()

    until(lambda: get_task(task_id)["finished_at"])


@SQLITE
@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (RuntimeError("a bug"), ["unexpected error; will retry"] * 3),
        (nix.NixError("no store"), ["will retry: no store"]),
        (OperationalError("", {}, Exception("no disk")), ["will retry: no disk"]),
        (OSError(5, "no folder"), ["will retry: [Errno 5] no folder"]),
    ],
)
def test_a_thread_pauses_and_goes_on_after_a_step_that_fails(pool, error, lines, caplog):
    steps, pauses = [], []

    def step():
        steps.append(error)
        if len(steps) == 3:
            pool.stopping.set()
        raise error

    pool.run(step, lambda: pauses.append(error))

    assert (len(steps), len(pauses)) == (3, 3)
    assert [record.getMessage() for record in caplog.records] == lines


@SQLITE
@pytest.mark.parametrize(
    ("seconds", "told"),
    [(60, ["away", "full", "full"]), (0, ["away", "away", "full", "full", "full"])],
)
def test_a_fault_is_told_when_it_is_another_comes_again_or_lasts(
    pool, caplog, monkeypatch, seconds, told
):
    monkeypatch.setattr("worker.TELL_AGAIN_SECONDS", seconds)
    faults = ["away", "away", "full", "full", None, "full"]

    def step():
        fault = faults.pop(0)
        if not faults:
            pool.stopping.set()
        if fault:
            raise nix.NixError(fault)
        return True

    pool.run(step, lambda: None)

    assert [record.getMessage() for record in caplog.records] == [
        f"will retry: {one}" for one in told
    ]


@SQLITE
def test_a_thread_takes_the_next_step_without_a_pause_while_there_is_work(pool):
    steps, pauses = iter([True, True, False]), []

    def pause():
        pauses.append(None)
        pool.stopping.set()

    pool.run(lambda: next(steps), pause)

    assert (len(pauses), list(steps)) == (1, [])


@SQLITE
def test_a_pool_of_no_threads_starts_nothing(make_app):
    pool = services.get(Pool, make_app(WORKER_THREADS=0))

    pool.start()

    assert pool.fault() is None
    assert not [one for one in threading.enumerate() if one.name.startswith(("worker-", "maint"))]
    assert not (pool.app.config["DATA_DIR"] / "holders").exists()


def test_the_processes_that_are_forked_after_the_first_upkeep_need_not_reconcile(pool, monkeypatch):
    pool.begin()
    monkeypatch.setattr("worker.maintenance.reconcile", None)  # would end in an error

    pool.start()

    assert pool.fault() is None


def test_the_first_upkeep_leaves_no_connection_and_no_holder(app, schedule, pool, get_task):
    task_id = schedule()
    with app.app_context():
        task_queue.claim("gone", 3600)
    holders = app.config["DATA_DIR"] / "holders"
    holders.mkdir()
    (holders / "gone").touch()

    pool.begin()

    with app.app_context():
        assert db.engine.pool.checkedin() == db.engine.pool.checkedout() == 0
    assert list(holders.iterdir()) == []
    assert get_task(task_id)["status"] == "queued"


@SQLITE
def test_a_first_upkeep_that_fails_is_done_again_by_the_threads(app, pool, caplog):
    holders = app.config["DATA_DIR"] / "holders"
    holders.touch()  # in place of the folder
    pool.begin()
    assert "will retry: " in caplog.text
    holders.unlink()

    pool.start()

    until(lambda: pool.fault() is None)


@SQLITE
def test_a_process_that_runs_no_tasks_does_no_first_upkeep(make_app):
    pool = services.get(Pool, make_app(WORKER_THREADS=0))

    pool.begin()

    assert not (pool.app.config["DATA_DIR"] / "holders").exists()


@SQLITE
def test_a_pool_that_has_stopped_leaves_no_thread_and_no_holder(app, pool):
    pool.start()
    until(lambda: pool.fault() is None)

    pool.stop()

    assert pool.fault()
    assert not [one for one in threading.enumerate() if one.name.startswith(("worker-", "maint"))]
    assert list((app.config["DATA_DIR"] / "holders").iterdir()) == []


def test_an_unexpected_error_leaves_the_task_running_until_its_lease_ends(
    app, schedule, pool, get_task
):
    task_id = schedule()
    (app.config["DATA_DIR"] / "tmp").write_text("not a folder")

    with pytest.raises(OSError, match="Not a directory"):
        pool.run_one()

    assert get_task(task_id)["status"] == "running"


# --- Holders of leases ---


@pytest.fixture
def holders(app):
    """The folder of the holders' files."""
    return app.config["DATA_DIR"] / "holders"


def dead_holder(folder):
    """Become a holder in a process that ends at once, and return the holder's id."""
    script = "import sys, pathlib, worker; print(worker.Holder(pathlib.Path(sys.argv[1])).id)"
    argv = [sys.executable, "-c", script, folder]
    return subprocess.run(
        argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


@SQLITE
def test_a_holder_is_dead_once_its_process_has_ended(holders):
    alive, dead = Holder(holders), dead_holder(holders)

    assert dead_holders(holders, [alive.id, dead]) == [dead]

    alive.release()


@SQLITE
def test_a_holder_of_another_machine_is_not_known_to_be_dead(holders):
    assert dead_holders(holders, ["somebody"]) == []


@SQLITE
def test_the_files_of_dead_holders_are_removed_and_no_others(holders):
    alive, dead = Holder(holders), dead_holder(holders)
    assert {path.name for path in holders.iterdir()} == {alive.id, dead}

    remove_dead_holders(holders)

    assert [path.name for path in holders.iterdir()] == [alive.id]
    alive.release()


@SQLITE
def test_a_released_holder_leaves_no_file(holders):
    Holder(holders).release()

    assert list(holders.iterdir()) == []


@SQLITE
def test_a_folder_that_is_no_tasks_is_left_alone(app, pool):
    folder = app.config["DATA_DIR"] / "tmp" / "a-b-c-d-e"
    folder.mkdir(parents=True)

    pool.maintain_once()

    assert folder.is_dir()
