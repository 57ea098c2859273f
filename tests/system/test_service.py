"""The service under gunicorn, as its users and its operator meet it."""

import os
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

import figures
import pytest
from recipes import Recipes
from service import Service
from sqlalchemy import select
from support import BUNDLED, EITHER, SQLITE, until

from models import Task, db

SLOW = "echo started; sleep 60"


@pytest.fixture
def peek(app):
    """Return a function that tells where a task stands, with no service to ask."""

    def peek(task_id):
        with app.app_context():
            row = db.session.execute(select(Task).where(Task.id == UUID(task_id))).scalar_one()
            return row.status, row.attempt

    return peek


@pytest.fixture(scope="module")
def shared(tmp_path_factory, store_dir):
    """A running service for tests that are in nobody's way: each has packages of its own."""
    folder = tmp_path_factory.mktemp("shared")
    recipes = Recipes(folder)
    settings = {"DATA_DIR": folder / "data", "STORE_DIR": store_dir, "MIN_FREE_BYTES": 1}
    settings |= {"CATALOGS": f"{BUNDLED} {recipes.catalog}", "INDEX_BYTES": 0}
    with Service(settings, measured=False) as service:
        service.recipes = recipes
        service.init_db().start().sign_in()
        yield service


@pytest.fixture
def single(service):
    """A service of a single process, so that what it counts is all there is to count."""
    service.settings |= {"WEB_PROCESSES": 1, "MAX_FOLLOWERS": 1}
    service.start().sign_in()
    return service


def test_a_package_goes_from_a_name_and_a_version_to_a_program_that_runs(service):
    assert service.command("init-db").returncode == 0
    service.start().sign_in()
    package_id = service.register("hello", "2.12.1")

    task_id = service.post(f"package/{package_id}/download")["task_id"]
    assert service.ended(task_id)["status"] == "succeeded"
    assert service.post(f"package/{package_id}/activate") == {"status": "activated"}

    hello = service.data_dir / "profile" / "bin" / "hello"
    assert "2.12.1" in subprocess.check_output([hello, "--version"], text=True)


def test_another_version_takes_the_place_of_the_first(shared):
    for version in ("2.12.1", "2.10.0"):
        package_id = shared.register("hello", version)
        shared.ended(shared.post(f"package/{package_id}/download")["task_id"])
        shared.post(f"package/{package_id}/activate")

    hello = shared.data_dir / "profile" / "bin" / "hello"
    assert "2.10.0" in subprocess.check_output([hello, "--version"], text=True)
    statuses = {each["version"]: each["status"] for each in shared.get("packages?name=hello")}
    assert (statuses["2.12.1"], statuses["2.10.0"]) == ("downloaded", "activated")


def test_a_version_that_there_is_not_fails_with_those_there_are(shared):
    task = shared.ended(shared.schedule("hello", "9.9.9"))

    assert (task["status"], task["error"]["code"]) == ("failed", "version_unavailable")
    assert "to be had: 2.12.1, 2.10.0" in task["error"]["message"]


@SQLITE
@pytest.mark.parametrize("key", ["", "change-me", "too-short"])
def test_production_does_not_start_without_a_real_secret_key(service, key):
    service.settings |= {"APP_ENV": "production", "SECRET_KEY": key}
    service.measured = True  # no other test has the refusal measured

    service.start(ready=False)

    assert service.server.wait(30) == os.EX_CONFIG
    assert service.said().startswith("pkgd: SECRET_KEY is ")
    assert service.said().count("\n") == 1


@EITHER
def test_a_token_that_is_revoked_is_refused_by_every_process(settings, running, tmp_path):
    token = running.post("tokens", json={"name": "robot"})
    robot = {"Authorization": f"Token {token['token']}"}
    settings |= {"DATA_DIR": tmp_path / "other", "WEB_PROCESSES": 1}
    with Service(settings, measured=False) as other:
        other.start()
        assert other.request("GET", "packages", headers=robot).status_code == 200

        assert running.request("DELETE", f"token/{token['id']}").status_code == 200

        assert other.request("GET", "packages", headers=robot).status_code == 401
        assert running.request("GET", "packages", headers=robot).status_code == 401


@EITHER
def test_a_stop_puts_running_tasks_back_and_leaves_no_process(running, recipes, peek):
    task_id = running.schedule(recipes.add_watched("slow", SLOW), "1.0.0")
    until(lambda: recipes.is_building("slow"))

    assert running.stop() == 0

    assert running.left() == []
    assert not recipes.is_building("slow")
    assert peek(task_id) == ("queued", 0)


@SQLITE
def test_an_interrupt_from_the_keyboard_is_a_stop_too(service, recipes, peek):
    service.measured = True  # no other test has the end by SIGINT measured
    service.start().sign_in()
    task_id = service.schedule(recipes.add_watched("slow", SLOW), "1.0.0")
    until(lambda: recipes.is_building("slow"))

    assert service.stop(signal.SIGINT) == 0

    assert service.left() == []
    assert peek(task_id) == ("queued", 0)


@SQLITE
def test_ctrl_c_puts_tasks_back_though_a_second_signal_follows(service, recipes, peek, tmp_path):
    slow_to_end = f"trap 'sleep 1; exit 1' TERM; touch {tmp_path}/runs; while :; do sleep 0.1; done"
    (tmp_path / "nix-build").write_text(f"#!/bin/sh\n{slow_to_end}\n")
    (tmp_path / "nix-build").chmod(0o755)
    service.settings["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    service.start().sign_in()
    task_id = service.schedule(recipes.add("unbuilt"), "1.0.0")
    until((tmp_path / "runs").exists)

    os.killpg(service.server.pid, signal.SIGINT)  # as a terminal does; gunicorn sends SIGQUIT then

    assert service.server.wait(30) == 0
    assert service.left() == []
    assert peek(task_id) == ("queued", 0)


@EITHER
def test_a_reload_puts_running_tasks_back_for_the_new_processes(running, recipes):
    task_id = running.schedule(recipes.add_watched("slow", SLOW), "1.0.0")
    until(lambda: recipes.is_building("slow"))
    before = {process.pid for process in running.web_processes()}

    running.server.send_signal(signal.SIGHUP)

    until(lambda: before.isdisjoint(process.pid for process in running.web_processes()))
    until(lambda: recipes.said("slow") == ["start", "start"])
    assert (running.task(task_id)["status"], running.task(task_id)["attempt"]) == ("running", 1)
    assert recipes.built_twice_at_once() == []
    assert running.stop() == 0


@SQLITE
def test_workers_whose_master_was_killed_put_their_tasks_back(running, recipes, peek):
    task_id = running.schedule(recipes.add_watched("slow", SLOW), "1.0.0")
    until(lambda: recipes.is_building("slow"))

    running.server.kill()

    until(lambda: running.left() == [])
    assert not recipes.is_building("slow")
    assert peek(task_id) == ("queued", 0)


@SQLITE
def test_a_worker_process_works_for_a_server_that_only_serves(service, recipes):
    service.settings |= {"WORKER_THREADS": 0, "WEB_PROCESSES": 1}
    service.start().sign_in()
    ids = [service.schedule(recipes.add(f"quick-{n}"), "1.0.0") for n in range(3)]

    service.measured = True  # no other test has `flask run-worker` measured
    worker = service.start_worker(WORKER_THREADS=2)

    assert [service.ended(task_id)["status"] for task_id in ids] == ["succeeded"] * 3
    worker.terminate()
    assert worker.wait(30) == 0


@SQLITE
def test_a_worker_process_that_is_stopped_puts_its_tasks_back(service, recipes):
    service.settings |= {"WORKER_THREADS": 0, "WEB_PROCESSES": 1}
    service.start().sign_in()
    worker = service.start_worker(WORKER_THREADS=2)
    task_id = service.schedule(recipes.add_watched("slow", SLOW), "1.0.0")
    until(lambda: recipes.is_building("slow"))

    worker.terminate()

    assert worker.wait(30) == 0
    assert (service.task(task_id)["status"], service.task(task_id)["attempt"]) == ("queued", 0)
    assert not recipes.is_building("slow")


@SQLITE
def test_a_task_queued_in_another_process_is_taken_within_a_second(service, recipes):
    service.settings |= {"WORKER_THREADS": 0, "WEB_PROCESSES": 1}
    service.start().sign_in()
    service.start_worker(WORKER_THREADS=2)
    service.ended(service.schedule(recipes.add("first"), "1.0.0"))

    task_id = service.schedule(recipes.add("second"), "1.0.0")

    assert waited(service.ended(task_id)) < 5


def waited(task):
    """Return for how many seconds the task lay in the queue."""
    created, started = (datetime.fromisoformat(task[key]) for key in ("created_at", "started_at"))
    return (started - created).total_seconds()


def test_a_line_is_followed_while_its_build_runs(shared, tmp_path):
    script = f"echo first; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo last; touch $out"
    task_id = shared.schedule(shared.recipes.add("waits", script), "1.0.0")

    with shared.request("GET", f"task/{task_id}/log?follow=true", stream=True) as stream:
        lines = stream.iter_lines(chunk_size=1)
        followed = list(iter(lambda: next(lines), b"first"))
        assert shared.task(task_id)["status"] == "running"
        (tmp_path / "go").touch()
        followed += [b"first", *lines]

    assert b"last" in followed
    assert shared.task_log(task_id).splitlines() == followed


def test_a_line_is_seen_within_a_second_of_being_written(shared):
    script = "for n in 1 2 3 4 5 6 7; do date +%s.%N; sleep 0.2; done; touch $out"
    task_id = shared.schedule(shared.recipes.add("ticks", script), "1.0.0")

    with shared.request("GET", f"task/{task_id}/log?follow=true", stream=True) as stream:
        delays = [
            time.time() - float(line)
            for line in stream.iter_lines(chunk_size=1)
            if re.fullmatch(rb"\d+\.\d+", line)
        ]

    assert len(delays) == 7
    assert statistics.median(delays) < 1


def test_a_followed_log_is_the_same_in_one_piece_and_by_offsets(shared):
    line = "line $n caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    script = f"for n in $(seq 300); do echo {line}; sleep 0.005; done; touch $out"
    task_id = shared.schedule(shared.recipes.add("counts", script), "1.0.0")

    followed = shared.task_log(task_id, follow="true")

    whole = shared.task_log(task_id)
    assert followed == whole
    assert b"line 300 caf" in whole
    for offset in range(0, len(whole), 1009):
        assert shared.task_log(task_id, offset=offset) == whole[offset:]


@SQLITE
def test_only_so_many_follow_at_once(single, recipes):
    task_id = single.schedule(recipes.add("slow", SLOW), "1.0.0")
    url = f"task/{task_id}/log?follow=true"

    with single.request("GET", url, stream=True) as stream:
        next(stream.iter_lines())
        refused = single.request("GET", url)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")


@SQLITE
def test_a_follower_of_a_silent_build_that_goes_away_leaves_its_place(single, recipes):
    task_id = single.schedule(recipes.add("slow", SLOW), "1.0.0")
    until(lambda: b"started" in single.task_log(task_id))
    url = f"task/{task_id}/log?follow=true"
    with single.request("GET", url, stream=True) as stream:
        next(stream.iter_lines())

    def follow():
        with single.request("GET", url, stream=True) as stream:
            return stream.status_code == 200

    assert until(follow, 5)


@SQLITE
def test_a_stop_ends_the_streams_of_followers(single, recipes):
    task_id = single.schedule(recipes.add("slow", SLOW), "1.0.0")

    with single.request("GET", f"task/{task_id}/log?follow=true", stream=True) as stream:
        lines = stream.iter_lines()
        next(lines)
        single.server.terminate()
        list(lines)  # ends, and ends well

    assert single.server.wait(30) == 0


@EITHER
def test_many_requests_at_once_are_answered_while_builds_run(running, recipes, database_url):
    for n in range(8):
        running.schedule(recipes.add(f"busy-{n}", "seq 20000; sleep 1; touch $out"), "1.0.0")

    def ask(n):
        if n % 4 == 0:
            body = {"name": "many", "version": f"{n}.0.0"}
            return running.request("POST", "packages", json=body).status_code
        return running.request("GET", ("packages", "tasks", "version", "tokens")[n % 4]).status_code

    with ThreadPoolExecutor(200) as clients:
        answers = Counter(clients.map(ask, range(200 * figures.ROUNDS)))

    assert set(answers) <= {200, 201, 503}
    figures.keep(
        "requests from 200 clients at once while builds run and write 20,000 lines each",
        database_url,
        f"{answers.total()} requests",
        f"{answers[200] + answers[201]} succeeded, {answers[503]} got 503, none anything else",
    )
