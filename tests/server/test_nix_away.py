"""Nix away or unable: tasks wait or are tried again, and no package is blamed."""

import json

import figures
import pytest
from support import SQLITE, until

import services

pytestmark = pytest.mark.usefixtures("recipes")


@pytest.fixture
def through_daemon(app, daemon, monkeypatch):
    """Have the application use the store of a daemon."""
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0.2, 0.2))
    monkeypatch.setattr("nix.availability.FRESH_SECONDS", 0)
    services.add(app, daemon.store)
    return daemon


def test_while_the_daemon_is_stopped_tasks_wait_and_cost_no_attempt(
    through_daemon, recipes, schedule, pool, get_task, database_url
):
    task_id = schedule(recipes.add("plain", "echo away >$out"), "1.0.0")
    through_daemon.kill()

    assert not pool.run_one()
    pool.maintain_once()

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)
    assert "cannot connect to socket" in task["waiting"]

    through_daemon.start()
    assert pool.run_one()
    assert get_task(task_id)["status"] == "succeeded"
    outcome = "the task waited with the reason shown, and went on; no attempt counted"
    figures.keep("nix-daemon stopped, then started again", database_url, "once", outcome)


@SQLITE
def test_a_daemon_that_stops_before_the_build_costs_no_attempt(
    through_daemon, recipes, schedule, pool, get_task, monkeypatch
):
    monkeypatch.setattr("nix.availability.FRESH_SECONDS", 60)
    assert pool.obstacle() is None
    task_id = schedule(recipes.add("early", "echo early >$out"), "1.0.0")
    through_daemon.kill()

    assert pool.run_one()
    assert not pool.run_one()

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 0)


def test_a_daemon_that_is_killed_during_a_build_is_tried_again(
    through_daemon, recipes, start_build, pool, get_task, database_url
):
    task_id, thread = start_build(
        recipes.add("shot", f"echo started; {recipes.gate('shot')}; echo >$out")
    )

    through_daemon.kill()
    thread.join(10)

    task = get_task(task_id)
    assert (task["status"], task["attempt"], task["error"]) == ("queued", 1, None)
    assert "attempt 2 follows at" in task["waiting"]
    recipes.open("shot")
    through_daemon.start()
    assert until(pool.run_one)
    assert (get_task(task_id)["status"], get_task(task_id)["attempt"]) == ("succeeded", 2)
    outcome = "tried again, succeeded in attempt 2"
    figures.keep("`kill -9` of nix-daemon in a build", database_url, "once", outcome)


@SQLITE
def test_after_its_last_attempt_a_task_fails_with_nix_unavailable(
    replace_program, recipes, run_task, pool, get_task, monkeypatch
):
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0.2, 0.2))
    group = "the group 'nixbld' specified in 'build-users-group' does not exist"
    event = json.dumps({"action": "msg", "level": 0, "msg": f"error: {group}"})
    replace_program("nix-build", f"cat >&2 <<'.'\n@nix {event}\n.\nexit 1")

    task_id = run_task(recipes.add("blameless", "echo blameless >$out"))["id"]
    assert get_task(task_id)["waiting"].startswith(group)
    for _ in range(2):
        until(pool.run_one)

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("failed", 3)
    assert (task["error"]["code"], task["error"]["message"]) == ("nix_unavailable", group)
    assert "users that builds run as" in task["error"]["hint"]


@SQLITE
def test_an_evaluation_that_the_kernel_kills_is_tried_again(
    programs, replace_program, run_task, pool, get_task, monkeypatch
):
    monkeypatch.setattr("attempts.RETRY_SECONDS", (0.2, 0.2))
    replace_program("nix-instantiate", '[ -e $0.freed ] || kill -KILL $$; exec $real "$@"')

    task = run_task("hello", "2.12.1")
    assert (task["status"], task["attempt"], task["error"]) == ("queued", 1, None)
    assert task["waiting"].startswith("nix-instantiate was ended by SIGKILL; out of memory is")

    (programs / "nix-instantiate.freed").touch()
    assert until(pool.run_one)
    assert (get_task(task["id"])["status"], get_task(task["id"])["attempt"]) == ("succeeded", 2)


@SQLITE
def test_a_wait_between_attempts_holds_up_no_other_task(
    replace_program, recipes, run_task, schedule, pool, get_task
):
    replace_program("nix-build", 'mkdir $0.crashed && kill -SEGV $$; exec $real "$@"')
    waiting = run_task(recipes.add("first", "echo first >$out"))["id"]
    other = schedule(recipes.add("second", "echo second >$out"), "1.0.0")

    assert pool.run_one()
    assert not pool.run_one()
    pool.maintain_once()

    assert get_task(other)["status"] == "succeeded"
    task = get_task(waiting)
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert task["waiting"].startswith("nix-build was ended by SIGSEGV; attempt 2 follows at ")


@SQLITE
def test_a_daemon_that_freezes_during_a_build_is_no_limit_of_the_package(
    app, through_daemon, recipes, start_build, get_task, monkeypatch
):
    monkeypatch.setattr("nix.store.CHECK_SECONDS", 1)
    monkeypatch.setattr("nix.build.MARGIN_SECONDS", 0)
    app.config["BUILD_SECONDS"] = 3
    task_id, thread = start_build(recipes.add("frozen", "echo started; sleep 60"))

    through_daemon.freeze()
    thread.join(20)

    task = get_task(task_id)
    assert (task["status"], task["attempt"]) == ("queued", 1)
    assert "did not answer within 1 s" in task["waiting"]


@SQLITE
def test_a_service_whose_daemon_is_stopped_is_not_ready(make_app, daemon):
    app = make_app(WORKER_THREADS=0)
    services.add(app, daemon.store)
    client = app.test_client()
    assert client.get("/readyz").status_code == 200

    daemon.kill()

    until(lambda: client.get("/readyz").status_code == 503)
    (reason,) = client.get("/readyz").json["errors"]["nix"]
    assert reason.startswith("cannot connect to socket")
