"""Attempts in a process of their own, whose program a script stands in for; and a real one."""

import json
import threading

import pytest
from sqlalchemy import select, update
from support import CATALOGS, SQLITE, until

import attempt_process
import leases
import metrics_folder
import nix
import services
import task_queue
from catalogs import indexes
from database import sqlite_file
from models import Task, TaskStatus, db, soon
from worker import Pool

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
DEAF = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("{began}").touch()
time.sleep(60)
"""


@pytest.fixture
def settings(settings):
    """The settings of an application that indexes one catalog."""
    return settings | {"INDEX_BYTES": 2**30, "CATALOGS": CATALOGS / "tools.nix"}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that has a script run in place of the program."""
    path = tmp_path / "program.py"
    monkeypatch.setattr("attempt_process.PROGRAM", path)
    return path.write_text


@pytest.fixture
def claimed(app):
    """Return a function that claims the task to index a catalog; the test is in the app context."""
    with app.app_context():
        indexes.schedule([indexes.State(nix.Catalog("own", "nowhere"), "signature")])

        def claimed():
            db.session.rollback()
            return task_queue.claim("holder", 30)

        yield claimed


@pytest.fixture
def run(app):
    """Return a function that runs the attempt of a lease; it returns its task."""

    def run(lease, stopping=None):
        stopping = stopping or threading.Event()
        attempt_process.run(lease, app.config["GIVEN"], stopping)
        db.session.rollback()
        return db.session.scalars(select(Task)).one()

    return run


def test_a_process_that_is_killed_is_tried_again_until_the_task_fails(
    program, claimed, run, monkeypatch
):
    monkeypatch.setattr("attempt_process.RETRY_SECONDS", (0, 0))
    program(KILLED)

    tasks = [run(claimed()) for _ in range(2)]

    assert (tasks[1].status, tasks[1].attempt) == (TaskStatus.QUEUED, 2)
    assert "was ended by SIGKILL; out of memory is likely; attempt 3 follows" in tasks[1].waiting
    task = run(claimed())
    assert (task.status, task.attempt, task.error_code) == (TaskStatus.FAILED, 3, "lost")
    assert task.error_message.startswith("the process of attempt 3: ")
    assert "lower INDEX_BYTES" in task.error_hint


@SQLITE
def test_a_program_that_can_not_start_costs_no_attempt_and_the_task_tells(program, claimed, run):
    program("import nosuch_module")

    task = run(claimed())

    assert (task.status, task.attempt, task.waits) == (TaskStatus.QUEUED, 0, 1)
    reason = "the process for this task can't start: exit code 1, and the service's log says why"
    assert task.waiting.startswith(reason)


@SQLITE
def test_a_process_waits_for_what_starts_it(program, programs, claimed, run):
    program("")
    (programs / "setpriv").unlink()

    task = run(claimed())

    assert (task.status, task.attempt) == (TaskStatus.QUEUED, 0)
    assert "can't start: setpriv is not on PATH" in task.waiting


@SQLITE
def test_a_process_that_ends_by_itself_has_written_how(program, claimed, run):
    program("")

    assert run(claimed()).status == TaskStatus.RUNNING


@SQLITE
def test_a_process_that_does_not_stop_is_killed_and_the_task_put_back(
    program, claimed, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("attempt_process.END_SECONDS", 0.5)
    began, stopping, lease = tmp_path / "began", threading.Event(), claimed()
    program(DEAF.format(began=began))
    stopper = threading.Thread(target=lambda: (until(began.exists), stopping.set()))
    stopper.start()

    task = run(lease, stopping)

    stopper.join()
    assert (task.status, task.attempt) == (TaskStatus.QUEUED, 0)
    assert task.waiting is None


@SQLITE
def test_a_process_that_hangs_is_ended_once_its_lease_is_lost(
    program, claimed, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("attempt_process.LOOK_SECONDS", 0)
    lease, late = claimed(), tmp_path / "late"
    db.session.execute(update(Task).values(lease_until=soon(-1)))
    db.session.commit()
    assert leases.reap() == 1
    program(f"import pathlib, time; time.sleep(20); pathlib.Path('{late}').touch()")

    task = run(lease)

    assert (task.status, task.attempt, late.exists()) == (TaskStatus.QUEUED, 1, False)


@SQLITE
def test_a_process_goes_on_while_the_database_is_away(program, claimed, run, tmp_path, monkeypatch):
    monkeypatch.setattr("attempt_process.LOOK_SECONDS", 0)
    lease, file, away = claimed(), sqlite_file(db.engine.url), tmp_path / "away"
    hide, show = f"os.rename('{file}', '{away}')", f"os.rename('{away}', '{file}')"
    program(f"import os, time; {hide}; time.sleep(1); {show}")

    assert run(lease).status == TaskStatus.RUNNING
    assert file.exists()


@SQLITE
@pytest.mark.parametrize(
    ("script", "stops"), [(KILLED, False), ("exit(1)", False), ("import time; time.sleep(9)", True)]
)
def test_what_the_process_has_written_itself_stays(program, claimed, run, script, stops):
    lease, stopping = claimed(), threading.Event()
    lease.cancel()
    program(script)
    if stops:
        stopping.set()

    assert run(lease, stopping).status == TaskStatus.CANCELLED


@SQLITE
def test_the_process_has_the_settings_that_the_service_began_with(
    program, claimed, run, app, tmp_path, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv(metrics_folder.SHARED, "/dev/shm/nosuch")
    program(f"import json, os, sys; json.dump([sys.argv, dict(os.environ)], open('{told}', 'w'))")
    lease = claimed()

    run(lease)

    argv, environ = json.loads(told.read_text())
    assert argv[1:] == [str(lease.seq), "1", "holder"]
    assert environ["DATA_DIR"] == str(app.config["DATA_DIR"])
    assert environ["BUILDERS"] == ""  # so that a `.env` file that was changed does not count
    assert metrics_folder.SHARED not in environ


def test_a_pool_that_works_on_catalogs_apart_indexes_them(app, client):
    services.get(Pool, app).start(catalogs_apart=True)

    until(lambda: client.get("/api/v1/catalogs").json[0]["index"] == "current")

    task = client.get("/api/v1/tasks").json[0]
    assert (task["kind"], task["status"], task["attempt"]) == ("index", "succeeded", 1)
