"""Draining: what runs is finished, nothing new is taken, and everybody is told so."""

import re

import pytest
from support import SQLITE, listening, until

import drain
import nix
import task_queue
from catalogs import indexes
from models import db

pytestmark = pytest.mark.usefixtures("recipes")


@pytest.fixture
def folder(app):
    """The data folder."""
    return app.config["DATA_DIR"]


@pytest.fixture
def command(app):
    """Return a function that runs a `flask` command."""
    return lambda *arguments: app.test_cli_runner().invoke(args=arguments)


def test_a_drained_service_takes_no_task_and_says_so_until_it_resumes(
    command, schedule, pool, get_task, client
):
    task_id = schedule()

    done = command("drain")

    assert (done.exit_code, done.output.splitlines()[1:]) == (0, ["no task runs"])
    assert not pool.run_one()
    waiting = client.get("/api/v1/tasks").json[0]["waiting"]
    assert re.fullmatch(r"drained since \S+Z: no task is taken until flask resume", waiting)
    assert command("resume").output == "tasks are taken again\n"
    assert get_task(task_id)["waiting"] is None
    assert pool.run_one()
    assert get_task(task_id)["status"] == "succeeded"


@SQLITE
def test_a_pool_explains_the_wait_of_tasks_that_come_later(folder, schedule, pool, get_task):
    drain.begin(folder)
    task_id = schedule()

    pool.maintain_once()

    assert get_task(task_id)["waiting"] == drain.reason(folder)


@SQLITE
def test_readiness_and_metrics_tell_of_a_drain(folder, client, pool):
    pool.start()
    until(lambda: client.get("/readyz").status_code == 200)
    assert "pkgd_drained 0.0" in client.get("/metrics").text

    drain.begin(folder)

    checks = client.get("/readyz").json["checks"]
    assert checks["workers"] == f"ok, but {drain.reason(folder)}"
    assert "pkgd_drained 1.0" in client.get("/metrics").text


@SQLITE
def test_a_second_drain_keeps_the_time_and_a_resume_without_one_says_so(command, folder):
    command("drain")
    first = drain.reason(folder)

    assert command("drain").output.splitlines() == [first, "no task runs"]

    assert command("resume").exit_code == 0
    again = command("resume")
    assert (again.exit_code, again.output) == (0, "tasks were taken: nothing was drained\n")


def test_a_drain_waits_for_what_runs_and_its_exit_code_says_whether_it_ended(
    command, recipes, start_build, get_task
):
    name = recipes.add("gated", f"echo started; {recipes.gate('gated')}; touch $out")
    task_id, thread = start_build(name)

    early = command("drain", "--wait", "0.1")

    assert early.exit_code == 1
    assert re.search(r"\nwaiting for 1: gated 1.0.0 since [\d:]{8}Z\n", early.output)
    assert early.output.endswith("\nError: tasks still run; nothing new is taken meanwhile\n")
    recipes.open("gated")
    late = command("drain")
    thread.join()
    assert (late.exit_code, get_task(task_id)["status"]) == (0, "succeeded")


@SQLITE
def test_a_drain_that_somebody_ends_meanwhile_waits_no_longer_and_says_so(
    app, command, folder, schedule, monkeypatch
):
    schedule()
    with app.app_context():
        assert task_queue.claim("elsewhere", 600)
    monkeypatch.setattr("time.sleep", lambda _seconds: drain.end(folder))

    ended = command("drain")

    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1] == (
        "Error: flask resume has ended the drain: tasks are taken again"
    )


@pytest.mark.parametrize(("read_only", "status"), [("false", "queued"), ("true", "running")])
def test_a_drain_does_not_wait_for_a_worker_that_is_gone(
    app, make_app, folder, schedule, get_task, read_only, status
):
    task_id = schedule()
    (folder / "holders").mkdir()
    (folder / "holders" / "gone").touch()  # as a killed process leaves it: not locked
    with app.app_context():
        assert task_queue.claim("gone", 600)

    runner = make_app(READ_ONLY=read_only).test_cli_runner()
    done = runner.invoke(args=["drain", "--wait", "0"])

    assert (done.exit_code, done.output.splitlines()[1]) == (0, "no task runs")
    assert get_task(task_id)["status"] == status


def test_a_drain_tells_that_a_catalog_is_being_indexed(app, command, folder, monkeypatch):
    monkeypatch.setattr("commands.drain.SAY_SECONDS", 0)
    with app.app_context():
        states = [indexes.State(nix.Catalog("<nixpkgs>", "<nixpkgs>"), "x")]
        indexes.schedule(states)
        assert task_queue.claim("elsewhere", 600)

    done = command("drain", "--wait", "0.6")

    assert done.exit_code == 1
    assert done.output.count("waiting for 1: the index of <nixpkgs> since") >= 2


def test_a_task_that_is_claimed_as_the_drain_begins_is_put_back(folder, schedule, pool, get_task):
    task_id = schedule()

    with listening(db.session, "after_commit", lambda _session: drain.begin(folder)):
        assert not pool.run_one()

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
