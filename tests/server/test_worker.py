"""The worker pool a step at a time: what its tasks wait for, and what becomes of them."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import figures
import pytest
from sandbox import sandboxed_store
from support import CATALOGS, SQLITE, until

import nix
import services
import task_queue
from models import Package, db
from worker import Pool

pytestmark = pytest.mark.usefixtures("recipes")

ENDLESS = "echo started; while :; do sleep 0.1; done"


@SQLITE
def test_without_room_on_the_disk_tasks_wait_and_say_why(app, schedule, pool, get_task):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()

    assert not pool.run_one()
    pool.maintain_once()

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert f"has less than {2**60} bytes free; tasks wait" in task["waiting"]


def test_with_room_again_tasks_go_on(app, schedule, pool, get_task):
    app.config["MIN_FREE_BYTES"] = 2**60
    task_id = schedule()
    pool.maintain_once()

    app.config["MIN_FREE_BYTES"] = 1

    assert pool.run_one()
    assert (get_task(task_id)["status"], get_task(task_id)["waiting"]) == ("succeeded", None)


@SQLITE
@pytest.mark.parametrize("program", ["nix-build", "setpriv"])
def test_without_nix_tasks_wait_and_say_why(
    programs, program, schedule, pool, get_task, database_url
):
    real = (programs / program).readlink()
    (programs / program).unlink()
    task_id = schedule()

    assert not pool.run_one()
    with suppress(nix.NixMissing):  # what there is to reconcile waits as well
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
def test_nix_that_goes_missing_meanwhile_costs_no_attempt(programs, replace_program, run_task):
    replace_program("nix-instantiate", f'rm {programs}/nix-build; exec $real "$@"')

    task = run_task("hello", "2.12.1")

    assert (task["status"], task["attempt"]) == ("queued", 0)


def test_when_nix_crashes_three_times_the_task_is_lost(
    replace_program, recipes, run_task, pool, get_task, database_url
):
    replace_program("nix-build", "kill -SEGV $$")

    task = run_task(recipes.add("unlucky"))
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert pool.run_one()
    assert pool.run_one()

    task = get_task(task["id"])
    assert (task["status"], task["attempt"], task["error"]["code"]) == ("failed", 3, "lost")
    assert not pool.run_one()
    figures.keep("nix-build ended by SIGSEGV", database_url, "3 attempts", "failed with `lost`")


def test_a_stop_puts_the_task_back_and_ends_its_build(
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
@pytest.mark.skipif(os.geteuid() != 0, reason="a store elsewhere needs root's rights to build")
def test_builds_go_to_the_machines_in_builders(make_app, tmp_path):
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


def test_what_a_dead_pool_held_runs_again_at_once(app, make_app, schedule, pool, get_task):
    task_id = schedule()
    dead = services.get(Pool, make_app())
    with app.app_context():
        assert task_queue.claim(dead.holder_id, 30)
    dead._holder._file.close()

    pool.start()

    task = until(lambda: get_task(task_id)["status"] == "succeeded" and get_task(task_id), 10)
    assert task["attempt"] == 2


def test_what_a_living_pool_holds_is_left_to_it(app, make_app, schedule, pool, get_task):
    task_id = schedule()
    living = services.get(Pool, make_app())
    with app.app_context():
        assert task_queue.claim(living.holder_id, 30)

    pool.maintain_once()

    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("running", 1)


@SQLITE
def test_what_a_killed_process_has_left_of_a_cancelled_task_is_ended(
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


def test_an_idle_thread_wakes_for_a_task_of_its_own_process(
    client, register, pool, get_task, monkeypatch
):
    monkeypatch.setattr("worker.POLL_SECONDS", 600)  # only being woken makes a thread look
    ids = [register(version=f"{n}.0.0") for n in range(9)]
    pool.start()
    until(lambda: pool.is_running)

    for package_id in ids:
        answer = client.post(f"/api/v1/package/{package_id}/download")
        until(lambda task_id=answer.json["task_id"]: get_task(task_id)["finished_at"])


@SQLITE
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


def test_any_other_fault_leaves_the_task_to_its_lease(app, schedule, pool, get_task):
    task_id = schedule()
    (app.config["DATA_DIR"] / "tmp").write_text("not a folder")

    with pytest.raises(OSError, match="Not a directory"):
        pool.run_one()

    assert get_task(task_id)["status"] == "running"
