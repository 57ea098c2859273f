"""A real gunicorn indexes and verifies a catalog in a process of its own, whatever is killed."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from service import LIVE, ROOT
from sqlalchemy import create_engine
from support import EITHER, SQLITE, until

from attempt_process import PROGRAM
from metrics_folder import MEMORY

CATALOG = """let
  package = pname: derivation {{
    inherit pname; version = "1.0"; name = "${{pname}}-1.0"; system = "x"; builder = "x";
  }};
in {{ one = package "one"; two = {last}; }}
"""


@pytest.fixture
def gate(service, tmp_path):
    """A pipe, of a catalog whose last attribute an evaluation waits for until `opened`."""
    gate, catalog = tmp_path / "gate", tmp_path / "own" / "default.nix"
    os.mkfifo(gate)
    catalog.parent.mkdir()
    catalog.write_text(CATALOG.format(last=f'package (builtins.readFile "{gate}")'))
    service.settings |= {
        "CATALOGS": catalog,
        "INDEX_BYTES": 2**28,
        "INDEX_VERIFY": "true",
        "WEB_PROCESSES": 1,
    }
    return gate


def opened(gate):
    """Let the evaluations go on."""
    gate.unlink()
    gate.write_text("two")


def attempts(service):
    """Return the processes of attempts, once one of them evaluates."""
    running = []
    for process in service.left():
        try:
            if str(PROGRAM) in process.cmdline() and process.children():
                running.append(process)
        except psutil.NoSuchProcess:
            pass
    return running


def attempt(service):
    """Wait until one process of an attempt evaluates, and return it."""
    (process,) = until(lambda: attempts(service), explain=service.said)
    return process


def priorities(process):
    """Return the niceness of what a process has started."""
    try:
        return [child.nice() for child in process.children()]
    except psutil.NoSuchProcess:
        return []


def task_of(service):
    """Return the task that indexes the catalog."""
    return service.task(service.get("catalogs")[0]["index_task_id"])


def finished(service):
    """Wait until the catalog is indexed and verified; return the task that has indexed it."""
    until(
        lambda: service.get("catalogs")[0]["verification"] == "current",
        explain=lambda: service.said()[-5000:],
    )
    return task_of(service)


@EITHER
def test_a_server_works_on_a_catalog_in_a_process_of_its_own(service, gate):
    service.settings["APP_ENV"] = "production"
    secret = service.command("create-token").stdout.strip()
    service.session.headers["Authorization"] = f"Token {secret}"
    service.start()

    process = attempt(service)
    (web,) = service.web_processes()
    assert process.ppid() == web.pid
    # Not its own priority: it holds SQLite's lock at times, for which requests wait.
    until(lambda: priorities(process) == [19])
    assert process.nice() == web.nice()
    # Others than this one are free for requests.
    assert process.cpu_affinity() == [max(web.cpu_affinity())]
    opened(gate)
    task = finished(service)

    assert (task["status"], task["attempt"]) == ("succeeded", 1)
    until(lambda: not process.is_running())
    lines = [json.loads(line) for line in service.said().splitlines() if line.startswith("{")]
    said = [line for line in lines if "indexed, 0 attributes" in line["message"]]
    assert [line["task_id"] for line in said] == [task["id"]]
    # It counts no requests: it leaves nothing in the folder of the server's metrics.
    assert list(MEMORY.glob(f"pkgd-metrics-*/*_{process.pid}.db")) == []


@SQLITE
def test_a_process_that_is_killed_is_tried_again(service, gate):
    service.start().sign_in()

    attempt(service).kill()
    waiting = until(lambda: task_of(service)["waiting"], explain=service.said)
    opened(gate)

    assert "was ended by SIGKILL; out of memory is likely; attempt 2 follows" in waiting
    task = finished(service)
    assert (task["status"], task["attempt"]) == ("succeeded", 2)


@SQLITE
def test_a_process_ends_when_the_server_is_killed_and_the_next_start_goes_on(service, gate):
    service.start().sign_in()
    process = attempt(service)

    web = service.web_processes()
    for one in (psutil.Process(service.server.pid), *web):
        one.kill()
    service.server.wait()
    until(lambda: not process.is_running())
    assert service.left() == []
    opened(gate)
    service.start()

    assert finished(service)["status"] == "succeeded"


@SQLITE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_process_and_puts_the_task_back(service, gate, number):
    service.start().sign_in()
    process = attempt(service)
    task_id = task_of(service)["id"]

    assert service.stop(number) == 0

    assert not process.is_running()
    opened(gate)
    service.start()
    task = finished(service)
    assert (task["status"], task["attempt"]) == ("succeeded", 1)
    assert "the service stops; the task goes back to the queue" in (
        service.task_log(task_id, attempt=1).decode()
    )


@SQLITE
def test_a_cancel_reaches_the_process(service, gate):
    service.start().sign_in()
    process = attempt(service)

    service.post(f"task/{task_of(service)['id']}/cancel")

    until(lambda: task_of(service)["status"] not in LIVE)
    assert task_of(service)["status"] == "cancelled"
    until(lambda: not process.is_running())
    opened(gate)


def run_program(service):
    """Run the program for a lease that there is not; return its exit code and output."""
    return subprocess.run(
        [sys.executable, ROOT / "run_attempt.py", "1", "1", "holder"],
        env=service.environ(),
        cwd=service.folder(),
        capture_output=True,
        text=True,
    )


@SQLITE
def test_the_program_does_nothing_without_a_lease(service):
    done = run_program(service)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@SQLITE
def test_the_program_is_not_begun_with_the_schema_of_another_version(service, database_url):
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()

    done = run_program(service)

    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith("pkgd: the schema is 9999")
