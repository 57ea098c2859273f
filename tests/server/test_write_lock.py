"""Turns at writing to the file of SQLite: their order, their bound, and how they end."""

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from service import ROOT
from sqlalchemy import func, insert, make_url, select
from sqlalchemy.exc import OperationalError
from support import SQLITE, bearing

import models
import registration
from models import Package, db

pytestmark = SQLITE

WRITES = 30

# Arguments: the database, DATA_DIR, what the packages are named, how many threads write at once,
# and how often each. It waits for a line before it begins; `hold` stops it in a transaction.
WRITER = """
import sys, threading
from app import create_app
from models import Package, db
import registration

url, data_dir, name, threads, writes = sys.argv[1:]
app = create_app({"DATABASE_URL": url, "DATA_DIR": data_dir, "INDEX_BYTES": 0})

def write(thread):
    with app.app_context():
        for number in range(int(writes)):
            registration.register(f"{name}{thread}", f"1.0.{number}")

with app.app_context():
    db.session.execute(db.select(Package.id)).all()
print("ready", flush=True)
if sys.stdin.readline() == "hold\\n":
    with app.app_context():
        db.session.add(Package(name=name, version="1.0.0"))
        db.session.flush()
        print("held", flush=True)
        sys.stdin.readline()
all_ = [threading.Thread(target=write, args=(one,)) for one in range(int(threads))]
for one in all_: one.start()
for one in all_: one.join()
"""


@pytest.fixture
def file(database_url):
    """The file of the database."""
    return Path(make_url(database_url).database)


@pytest.fixture
def start_writer(settings, database_url):
    """Return a function that starts a process of writers, which wait for a line on its stdin."""
    started = []

    def start_writer(name, threads=1):
        where = database_url, str(settings["DATA_DIR"])
        argv = [sys.executable, "-c", WRITER, *where, name, str(threads), str(WRITES)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_writer
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def impatient(monkeypatch):
    """Let nobody wait for a turn for long."""
    monkeypatch.setattr(models, "LOCK_SECONDS", 0.2)


@contextmanager
def writing(app):
    """Be in the middle of a transaction that writes, which is rolled back in the end."""
    with app.app_context():
        engine = db.engine
    with engine.connect() as connection:
        connection.execute(insert(Package).values(name="held", version="1.0.0"))
        yield connection


@contextmanager
def locked(path):
    """Have a file locked, as by another process."""
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(process, line):
    """Send a line to a process of writers."""
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def names(app):
    """Return the name of each package, in the order in which they were written."""
    with app.app_context():
        return db.session.scalars(select(Package.name).order_by(Package.id)).all()


def count(app):
    """Return how many packages there are."""
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(Package))


def post(client, name="hello"):
    """Register a package; return the answer."""
    return client.post("/api/v1/packages", json={"name": name, "version": "1.0.0"})


# --- Order ---


def test_threads_that_write_all_the_time_take_turns(app):
    start = threading.Barrier(4)

    def write(name):
        with app.app_context():
            start.wait(10)
            for number in range(WRITES):
                registration.register(name, f"1.0.{number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    written = names(app)
    first_done = min(nth(written, name, WRITES) for name in "abcd")
    progress = [written[:first_done].count(name) for name in "abcd"]
    assert len(written) == 4 * WRITES
    assert min(progress) >= WRITES // 2


def test_one_writer_is_not_starved_by_many_of_another_process(app, start_writer):
    many, one = start_writer("many", threads=4), start_writer("one")
    for process in (many, one):
        say(process, "go")
    assert (one.wait(60), many.wait(60)) == (0, 0)

    written = names(app)
    since = written.index("one0")
    meanwhile = written[since : nth(written, "one0", WRITES)]
    assert len(meanwhile) <= 3 * WRITES  # where they alternate: twice as many
    assert len(written) == 5 * WRITES


def nth(written, name, number):
    """Return how many packages were written by when a name had so many."""
    return [at for at, one in enumerate(written, start=1) if one == name][number - 1]


# --- Waiting ---


def test_who_waits_writes_once_the_turn_before_ends(app, client):
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(post(client).status_code))

    with writing(app):
        waiting.start()
        waiting.join(0.2)
        assert answers == []
    waiting.join(60)

    assert answers == [201]


def test_who_reads_waits_for_nobody(app, client, impatient):
    with writing(app):
        assert client.get("/api/v1/packages").json == []


def refused(client):
    """Have a write refused; return its answer."""
    answer = post(client)
    assert answer.status_code == 503
    assert answer.json["type"] == "urn:pkgd:problem:database-unavailable"
    return answer


def test_a_wait_within_the_process_is_bounded(app, client, impatient):
    with writing(app):
        assert refused(client).headers["Retry-After"] == "2"

    assert count(app) == 0
    assert post(client).status_code == 201


@pytest.mark.parametrize("name", ["next", "turn"])
def test_a_wait_for_other_processes_is_bounded(app, client, file, impatient, name):
    with locked(file.with_name(f"app.db-{name}")):
        assert refused(client).headers["Retry-After"] == "2"

    assert count(app) == 0
    assert post(client).status_code == 201


# --- Ends ---


def test_a_killed_process_ends_its_turn(client, start_writer, impatient):
    holder = start_writer("held")
    say(holder, "hold")
    assert holder.stdout.readline() == "held\n"
    assert post(client).status_code == 503

    holder.kill()
    holder.wait(10)

    assert post(client).status_code == 201


def test_a_rolled_back_transaction_ends_its_turn(app, client, impatient):
    with writing(app):
        pass

    assert post(client).status_code == 201


def test_a_connection_that_is_given_up_ends_its_turn(app, client, impatient):
    with writing(app) as connection:
        connection.invalidate()

    assert post(client).status_code == 201


def test_a_transaction_that_does_not_begin_has_no_turn(make_app, client, file, impatient):
    app = make_app()
    with app.app_context(), closing(sqlite3.connect(file)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        db.session.connection().exec_driver_sql("PRAGMA busy_timeout = 100")
        with pytest.raises(OperationalError, match="database is locked"):
            db.session.execute(insert(Package).values(name="held", version="1.0.0"))
        stranger.rollback()

        assert post(bearing(app, client.secret)).status_code == 201


def test_a_connection_that_commits_and_writes_again_keeps_its_turn(app, impatient):
    with app.app_context(), db.engine.connect() as connection:
        for version in ("1.0.0", "1.0.1"):
            connection.execute(insert(Package).values(name="hello", version=version))
            connection.commit()

    assert count(app) == 2


# --- Files ---


def test_what_cannot_be_locked_is_told_once_and_holds_up_nobody(app, client, file, caplog):
    for path in file.parent.glob("app.db-next"):
        path.unlink()
    file.with_name("app.db-next").mkdir()

    assert [post(client, name).status_code for name in ("one", "two")] == [201, 201]

    told = [line for line in caplog.messages if "in line with other processes" in line]
    assert len(told) == 1


# --- Files ---


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_files_of_the_locks_are_those_of_the_owner_of_the_database(client, file):
    os.chown(file, 12345, 12346)

    assert post(client).status_code == 201

    owners = [file.with_name(f"app.db-{name}").stat() for name in ("next", "turn")]
    assert {(one.st_uid, one.st_gid) for one in owners} == {(12345, 12346)}
