"""Fixtures of the tests that build what they make up: on a pool, a step at a time, or a service."""

import shutil
from threading import Thread

import pytest
from conftest import until
from recipes import Recipes
from service import Service

from nix.store import PROGRAMS


@pytest.fixture
def recipes(settings, tmp_path):
    """Packages that the test makes up; to be asked for before an application is made."""
    recipes = Recipes(tmp_path)
    settings["CATALOGS"] += f" {recipes.catalog}"
    return recipes


@pytest.fixture
def service(settings, recipes):
    """A service that isn't started yet; the test may change its settings first."""
    with Service(settings) as service:
        service.recipes = recipes
        yield service


@pytest.fixture
def running(service):
    """The service, which runs and knows its administrator."""
    service.start().sign_in()
    return service


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
    """Return a function that starts a download, and returns its task's id when its build runs."""

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


@pytest.fixture
def fake(programs):
    """Return a function that puts a script in the place of a program, which it has as $real."""

    def fake(name, script):
        real = (programs / name).readlink()
        (programs / name).unlink()
        (programs / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin real={real}\n{script}\n")
        (programs / name).chmod(0o755)

    return fake
