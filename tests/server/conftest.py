"""Fixtures of the server's tests: clients, packages in any state, and the worker pool by steps."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import psycopg
import pytest
from sqlalchemy import select, update
from support import bearing, listening, metrics, remove_store, until

import nix
import services
from machines.models import Machine
from models import Package, PackageStatus, Token, db, soon, utcnow
from nix.store import PROGRAMS
from profiles import activation
from profiles.models import Change, Generation, Reason
from worker import Pool


@pytest.fixture
def own_store(settings, tmp_path):
    """A store for this test alone, which may damage it or collect its garbage."""
    settings["STORE_DIR"] = tmp_path / "store"
    yield nix.private_store(tmp_path / "store")
    remove_store(tmp_path / "store")


@pytest.fixture
def pool(app):
    """The application's worker pool."""
    return services.get(Pool, app)


# --- Clients ---


@pytest.fixture
def anonymous(app):
    """A client without a token."""
    return app.test_client()


@pytest.fixture
def client(app, anonymous):
    """A client with an admin's token, which is also in `client.secret`."""
    secret = anonymous.post("/api/v1/tokens").json["token"]
    return bearing(app, secret)


@pytest.fixture
def mint(client):
    """Return a function that mints a token and returns the whole answer."""

    def mint(**fields):
        answer = client.post("/api/v1/tokens", json=fields)
        assert answer.status_code == 201, answer.json
        return answer.json

    return mint


@pytest.fixture
def expire(app):
    """Return a function that has a token expire."""

    def expire(token_id):
        with app.app_context():
            db.session.execute(
                update(Token).where(Token.id == token_id).values(expires_at=soon(-1))
            )
            db.session.commit()

    return expire


@pytest.fixture
def get_task(client):
    """Return a function that returns a task as it is now."""
    return lambda task_id: client.get(f"/api/v1/task/{task_id}").json


@pytest.fixture
def read_log(client):
    """Return a function that returns a task's log as text."""

    def read_log(task_id, **query):
        return client.get(f"/api/v1/task/{task_id}/log", query_string=query).text

    return read_log


@pytest.fixture
def scrape(client):
    """Return a function that returns the metrics, as `support.metrics` does."""

    def scrape():
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.content_type.startswith("text/plain; version=")
        return metrics(answer.text)

    return scrape


@pytest.fixture
def statuses(client):
    """Return a function that returns the status of every package, by name and version."""

    def statuses():
        packages = client.get("/api/v1/packages").json
        return {f"{one['name']} {one['version']}": one["status"] for one in packages}

    return statuses


@pytest.fixture
def generations(client):
    """Return a function that returns the generations, newest first.

    Each is a tuple of its number, the packages that it holds, and the reasons of its changes.
    """

    def generations():
        return [
            (
                generation["number"],
                [f"{package['name']} {package['version']}" for package in generation["packages"]],
                [change["reason"] for change in generation["changes"]],
            )
            for generation in client.get("/api/v1/generations").json
        ]

    return generations


@pytest.fixture
def profile(app):
    """The path of the profile."""
    return app.config["PROFILE"]


@pytest.fixture
def run_program(profile):
    """Return a function that runs a program of the profile and returns what it prints."""

    def run_program(name="app"):
        return subprocess.check_output([profile / "bin" / name], text=True).strip()

    return run_program


# --- Packages and tasks ---


@pytest.fixture
def register(client):
    """Return a function that registers a package and returns its id."""

    def register(name="hello", version="2.12.1"):
        answer = client.post("/api/v1/packages", json={"name": name, "version": version})
        assert answer.status_code == 201, answer.json
        return answer.json["id"]

    return register


@pytest.fixture
def schedule(client, register):
    """Return a function that registers a package, schedules its download, returns the task's id."""

    def schedule(name="hello", version="2.12.1"):
        answer = client.post(f"/api/v1/package/{register(name, version)}/download")
        assert answer.status_code == 202, answer.json
        return answer.json["task_id"]

    return schedule


@pytest.fixture
def downloaded(client, register, pool):
    """Return a function that registers and downloads a package, and returns its id."""

    def downloaded(name="hello", version="2.12.1"):
        package_id = register(name, version)
        client.post(f"/api/v1/package/{package_id}/download")
        assert pool.run_one()
        assert client.get(f"/api/v1/package/{package_id}").json["status"] == "downloaded"
        return package_id

    return downloaded


@pytest.fixture
def activated(client, downloaded):
    """Return a function that registers, downloads and activates a package, and returns its id."""

    def activated(name="app", version="1.0.0"):
        package_id = downloaded(name, version)
        answer = client.post(f"/api/v1/package/{package_id}/activate")
        assert (answer.status_code, answer.json) == (200, {"status": "activated"})
        return package_id

    return activated


@pytest.fixture
def add_packages(app):
    """Return a function that adds packages to the database, without the API."""

    def add_packages(count, status=PackageStatus.CREATED):
        with app.app_context():
            db.session.add_all(
                Package(name=f"made-{n}", version="1.0.0", status=status) for n in range(count)
            )
            db.session.commit()

    return add_packages


# --- Races ---


@pytest.fixture
def race(app, postgres):
    """Return a function that runs two changes of the database at once, and returns their results.

    Before the first change commits, the second one starts and comes to wait for its locks.
    """

    def race(first, second):
        started = []

        def start_second(_session):
            if not started:
                started.append(threads.submit(in_context, second))
                until(lambda: waiting_sessions(postgres.url("postgres")))

        def in_context(change):
            with app.app_context():
                return change()

        with ThreadPoolExecutor(1) as threads, listening(db.session, "before_commit", start_second):
            return in_context(first), started[0].result()

    return race


def waiting_sessions(url):
    """Return how many sessions of the PostgreSQL server wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone()[0]


# --- One step of the worker pool ---


@pytest.fixture
def run_task(schedule, pool, get_task):
    """Return a function that schedules a download, runs it to its end, and returns the task."""

    def run_task(name, version="1.0.0"):
        task_id = schedule(name, version)
        assert pool.run_one()
        return get_task(task_id)

    return run_task


@pytest.fixture
def start_step(pool):
    """Return a function that starts one step of the pool in a thread, and returns the thread."""
    threads = []

    def start_step():
        threads.append(Thread(target=pool.run_one))
        threads[-1].start()
        return threads[-1]

    yield start_step
    pool.stopping.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def start_build(schedule, start_step, read_log):
    """Return a function that starts a download; it returns once the build has written "started".

    The function returns the task's id and the thread that runs the task.
    """

    def start_build(name):
        task_id = schedule(name, "1.0.0")
        thread = start_step()
        until(lambda: "started" in read_log(task_id))
        return task_id, thread

    return start_build


# --- Programs ---


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is all of PATH, with links to the programs that the service needs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for program in ("setpriv", *PROGRAMS):
        (folder / program).symlink_to(shutil.which(program))
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def replace_program(programs):
    """Return a function that replaces a program by a script, which finds the program in $real."""

    def replace_program(name, script):
        real = (programs / name).readlink()
        (programs / name).unlink()
        (programs / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin real={real}\n{script}\n")
        (programs / name).chmod(0o755)

    return replace_program


# --- Sets of packages ---


@pytest.fixture
def work(pool):
    """Return a function that works off the queue; it returns how many tasks there were."""

    def work():
        count = 0
        while pool.run_one():
            count += 1
        return count

    return work


@pytest.fixture
def put(client):
    """Return a function that applies packages, each as `NAME VERSION`, and returns the answer."""

    def put(*packages, profile="team", query="", **more):
        pairs = (package.split() for package in packages)
        body = {"packages": [{"name": name, "version": version} for name, version in pairs]}
        return client.put(f"/api/v1/profile/{profile}{query}", json=body, **more)

    return put


@pytest.fixture
def applied(put, work, get_task):
    """Return a function that applies packages, waits for the end, and returns the task."""

    def applied(*packages, **more):
        answer = put(*packages, **more)
        assert answer.status_code == 202, answer.json
        work()
        return get_task(answer.json["task_id"])

    return applied


@pytest.fixture
def held(client):
    """Return a function that returns what a profile holds, each as `NAME VERSION`."""

    def held(profile="team"):
        packages = client.get(f"/api/v1/profile/{profile}").json["packages"]
        return [f"{one['name']} {one['version']}" for one in packages]

    return held


@pytest.fixture
def etag(client):
    """Return a function that returns the ETag of a profile."""
    return lambda profile="team": client.get(f"/api/v1/profile/{profile}").headers["ETag"]


# --- Machines ---


@pytest.fixture
def generation(app):
    """Return a function that records that a profile has become a generation."""

    def generation(number, store_path, *, profile="default", published=True):
        with app.app_context():
            owner, _ = activation.add(profile)
            key = {"profile_id": owner.id, "number": number}
            row = db.session.scalar(select(Generation).filter_by(**key))
            if row is None:
                row = Generation(**key, store_path=store_path, packages=[])
                db.session.add(row)
            row.published_at = utcnow() if published else None
            db.session.flush()
            db.session.add(Change(generation_id=row.id, reason=Reason.APPLY))
            owner.touch()
            db.session.commit()

    return generation


@pytest.fixture
def report(client):
    """Return a function that reports a machine, and returns the answer."""
    usual = {"profile": "default", "generation": 1, "state": "current"}

    def report(name="web-1", store_path="/nix/store/aaa-profile", by=client, **more):
        body = {**usual, "store_path": store_path, **more}
        return by.put(f"/api/v1/machine/{name}", json=body)

    return report


@pytest.fixture
def silence(app):
    """Return a function that has a machine report nothing for 11 minutes."""

    def silence(name):
        with app.app_context():
            mine = update(Machine).where(Machine.name == name)
            db.session.execute(mine.values(seen_at=soon(-660)))
            db.session.commit()

    return silence


@pytest.fixture
def machine_client(app, mint):
    """Return a function that returns a client with a new token of scope sync."""
    return lambda: bearing(app, mint(scope="sync")["token"])
