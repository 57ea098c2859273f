"""What a service does without: its database for a while, room on its disk."""

import itertools
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress

import figures
import psycopg
import pytest
from postgres import running_server
from sqlalchemy import text
from support import SQLITE, until

from models import db

CLIENTS = 8
REQUESTS = [("GET", "packages?limit=1"), ("POST", "packages"), ("GET", "tasks?limit=1")]
JSON, PROBLEM = "application/json", "application/problem+json"
METHODS = ("GET", "POST", "PUT", "DELETE")
PATHS = ("packages", "package/1", "tasks", "task/1", "tokens", "token/9", "nothing")


class Load:
    """Requests from several clients at once, one after the other, until the `with` block ends."""

    def __init__(self, service):
        self.service, self.over = service, threading.Event()
        self.answers = []
        self.clients = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for client in self.clients:
            client.join()

    def _ask(self):
        for number in itertools.count():
            if self.over.is_set():
                break
            method, path = REQUESTS[number % len(REQUESTS)]
            package = {"name": "load", "version": f"{time.monotonic_ns()}.0.0"}
            body = package if method == "POST" else None
            started = time.monotonic()
            answer = self.service.request(method, path, json=body, timeout=30)
            seconds = time.monotonic() - started
            self.answers.append((answer.status_code, answer.headers["Content-Type"], seconds))

    def count(self, status):
        """Return how many answers had this status."""
        return sum(answer[0] == status for answer in self.answers)

    def wrong(self):
        """Return the answers that are neither a success nor a declared 503."""
        right = {(200, JSON), (201, JSON), (503, PROBLEM)}
        return [answer for answer in self.answers if answer[:2] not in right]

    def slowest(self):
        """Return how long the slowest answer took, in seconds."""
        return max(seconds for _, _, seconds in self.answers)


@pytest.fixture
def own_postgres():
    """A PostgreSQL server that the test may stop; it keeps what was committed."""
    with running_server() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER DATABASE postgres SET synchronous_commit = on")
        yield server


@SQLITE
def test_a_database_that_restarts_under_load_costs_no_task(service, own_postgres):
    service.settings["DATABASE_URL"] = own_postgres.url("postgres")
    assert service.command("init-db").returncode == 0
    service.start().sign_in()

    with Load(service) as load:
        for number in range(figures.ROUNDS):
            over_an_outage(service, own_postgres, load, number)

    assert load.wrong() == []
    figures.keep(
        "PostgreSQL stopped as by a crash and started again, under requests and builds",
        "postgresql",
        figures.rounds(f"{figures.ROUNDS * 6} tasks", f"{len(load.answers)} requests"),
        f"0 tasks lost; {load.count(503)} requests got 503 with a problem body, the others 2xx; "
        f"the slowest took {load.slowest():.1f} s",
    )


def over_an_outage(service, server, load, number):
    """Have the database crash and come back while tasks run and wait."""
    script = service.recipes.gate(f"go-{number}")
    names = [service.recipes.add_watched(f"round-{number}-{n}", script) for n in range(6)]
    ids = [service.schedule(name, "1.0.0") for name in names]
    until(lambda: sum(map(service.recipes.is_building, names)) == 4)
    refused = load.count(503)

    server.stop(signal.SIGQUIT)
    until(lambda: load.count(503) > refused)
    server.start()
    service.await_ready()
    service.recipes.open(f"go-{number}")

    tasks = [service.ended(task_id) for task_id in ids]
    assert [(task["status"], task["attempt"]) for task in tasks] == [("succeeded", 1)] * 6


@pytest.fixture
def small_disk(service):
    """The service's DATA_DIR, which is a disk of 32 MiB."""
    folder = service.data_dir.with_name("small")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root's rights")
    service.settings |= {"DATA_DIR": folder, "DATABASE_URL": ""}
    service.data_dir = folder
    assert service.command("init-db").returncode == 0
    yield folder
    service.kill()
    subprocess.run(["umount", folder], check=True)


def fill(folder, leave=0):
    """Fill the disk up until so many bytes are left; return the file that does it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - leave)
    return filler


@SQLITE
def test_without_room_on_the_disk_tasks_wait_and_then_go_on(service, small_disk, database_url):
    service.settings["MIN_FREE_BYTES"] = 4 * 1024 * 1024
    service.start().sign_in()
    filler = fill(small_disk, leave=1024 * 1024)

    task_id = service.schedule(service.recipes.add("patient"), "1.0.0")
    waiting = until(lambda: service.task(task_id)["waiting"])
    filler.unlink()

    assert "has less than 4194304 bytes free; tasks wait" in waiting
    assert service.ended(task_id)["status"] == "succeeded"
    figures.keep(
        "DATA_DIR on a disk of 32 MiB filled past MIN_FREE_BYTES",
        database_url,
        "once",
        "the task waited with the reason shown, and went on with room again",
    )


@SQLITE
def test_a_disk_that_fills_up_during_builds_costs_no_task(service, small_disk, database_url):
    service.settings |= {"MIN_FREE_BYTES": 0, "LEASE_SECONDS": 3}
    service.start().sign_in()
    names, ids = talk(service, 6)

    filler = fill(small_disk)
    assert until(lambda: refusal(service)) == PROBLEM
    until(lambda: not any(map(service.recipes.is_building, names)))
    filler.unlink()
    service.recipes.open("go")

    assert {service.ended(task_id)["status"] for task_id in ids} == {"succeeded"}
    assert service.recipes.built_twice_at_once() == []
    figures.keep(
        "the disk under DATA_DIR and the database full to the last byte for longer than a lease",
        database_url,
        f"once, {len(ids)} tasks",
        "requests that write got 503; 0 tasks lost",
    )


def talk(service, count):
    """Have so many packages built that write all the while; return them and their tasks."""
    script = service.recipes.gate("go").replace("do ", "do echo said; ")
    names = [service.recipes.add_watched(f"talks-{n}", script) for n in range(count)]
    ids = [service.schedule(name, "1.0.0") for name in names]
    until(lambda: sum(map(service.recipes.is_building, names)) == 4)
    return names, ids


@SQLITE
def test_on_a_full_disk_every_request_is_answered(service, small_disk, database_url):
    service.settings["MIN_FREE_BYTES"] = 0
    service.start().sign_in()
    before = service.web_processes()
    fill(small_disk)

    answers = [
        service.request(method, path, json={"name": "some", "version": "1.0.0"})
        for method, path in itertools.product(METHODS, PATHS * 4)
    ]

    assert [each for each in answers if each.status_code >= 500 and not is_declared(each)] == []
    assert service.web_processes() == before
    figures.keep(
        "requests of every kind with the disk under DATA_DIR and the database full",
        database_url,
        f"{len(answers)} requests",
        "all answered, no 5xx but 503 with a problem body, no process lost",
    )


def is_declared(answer):
    """Tell whether an answer is a 503 that says what is wrong."""
    return (answer.status_code, answer.headers["Content-Type"]) == (503, PROBLEM)


def refusal(service):
    """Register a package; return the kind of the answer if it is a 503."""
    body = {"name": "more", "version": f"{time.monotonic_ns()}.0.0"}
    answer = service.request("POST", "packages", json=body)
    return answer.headers["Content-Type"] if answer.status_code == 503 else None


@SQLITE
def test_a_database_that_goes_away_as_a_request_ends_costs_nothing(own_postgres, make_app, capsys):
    url = own_postgres.url("postgres")
    app = make_app(DATABASE_URL=url)
    with app.app_context():
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    assert "terminating connection" in capsys.readouterr().err
    with app.app_context():
        assert db.session.scalar(text("SELECT 1")) == 1
