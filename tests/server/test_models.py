"""The models: waits for locks, races between requests, and columns that are added later."""

import subprocess
import sys
from contextlib import contextmanager

import psycopg
import pytest
from service import ROOT
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from support import POSTGRESQL, bearing

import models
import registration
import task_queue
from models import Package, PackageStatus, Task, db
from profiles.models import Membership

# Run in its own process, because a model keeps the column until its process ends.
NEW_COLUMN = """
import sys

from sqlalchemy import String, select
from sqlalchemy.orm import mapped_column

from app import create_app
from models import Package, Task, db
from profiles.models import Membership

model = {"Package": Package, "Task": Task}[sys.argv[1]]
model.note = mapped_column(String, default="from Python", nullable=False)

app = create_app({"DATA_DIR": sys.argv[2]})
with app.app_context():
    db.create_all()
client = app.test_client()
token = client.post("/api/v1/tokens").json["token"]
headers = {"Authorization": f"Token {token}"}

package = {"name": "hello", "version": "2.12.1"}
created = client.post("/api/v1/packages", json=package, headers=headers)
queued = client.post("/api/v1/package/1/download", headers=headers)
with app.app_context():
    print(created.status_code, queued.status_code, db.session.scalar(select(model.note)))
"""

LOADED = """
import sys

from app import create_app
from models import Task, upsert

with create_app({"DATA_DIR": sys.argv[1]}).app_context():
    upsert(Task)
unneeded = {"sqlalchemy.dialects.postgresql", "psycopg", "alembic", "httpcore"}
print(*sorted(unneeded & set(sys.modules)))
"""


def test_a_server_on_sqlite_loads_neither_postgresql_nor_migrations_nor_httpcore(tmp_path):
    argv = [sys.executable, "-c", LOADED, tmp_path]

    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


@pytest.mark.parametrize("model", ["Package", "Task"])
def test_a_new_column_with_a_default_in_python_is_filled_in(tmp_path, model):
    argv = [sys.executable, "-c", NEW_COLUMN, model, tmp_path]

    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("201 202 from Python\n", 0), done.stderr


def test_a_task_of_a_missing_package_violates_a_foreign_key(app):
    with app.app_context():
        db.session.add(Task(package_id=99))

        with pytest.raises(IntegrityError):
            db.session.commit()


# --- Locks of PostgreSQL ---


@contextmanager
def locked_packages(url):
    """Lock the table of packages in the `with` block, for 10 s at most."""
    with psycopg.connect(url) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = '10s'")
        connection.execute("LOCK TABLE packages IN EXCLUSIVE MODE")
        yield


@POSTGRESQL
def test_a_wait_for_a_lock_past_the_bound_is_a_503(make_app, client, database_url, monkeypatch):
    monkeypatch.setattr(models, "LOCK_SECONDS", 0.2)
    impatient = bearing(make_app(), client.secret)
    package = {"name": "hello", "version": "2.12.1"}

    with locked_packages(database_url):
        refused = impatient.post("/api/v1/packages", json=package)

    assert refused.status_code == 503
    assert refused.json["type"] == "urn:pkgd:problem:database-unavailable"
    assert impatient.post("/api/v1/packages", json=package).status_code == 201


def counts(app):
    """Return how many packages and how many tasks there are."""
    with app.app_context():
        return [
            db.session.scalar(select(func.count()).select_from(model)) for model in (Package, Task)
        ]


@POSTGRESQL
def test_a_package_that_is_forgotten_meanwhile_is_not_queued(app, add_packages, race):
    add_packages(1)

    forgotten, queued = race(lambda: registration.forget(1), lambda: task_queue.add(1))

    assert (forgotten, queued) == (True, None)
    assert counts(app) == [0, 0]


@POSTGRESQL
def test_a_package_that_is_queued_meanwhile_is_not_forgotten(app, add_packages, race):
    add_packages(1)

    queued, forgotten = race(lambda: task_queue.add(1), lambda: registration.forget(1))

    assert (queued is not None, forgotten) == (True, False)
    assert counts(app) == [1, 1]


@POSTGRESQL
def test_a_package_that_is_activated_meanwhile_is_not_forgotten(app, add_packages, race):
    add_packages(1, PackageStatus.DOWNLOADED)

    def activate():
        Membership.replace(1, [1])
        db.session.commit()

    assert race(activate, lambda: registration.forget(1)) == (None, False)

    assert counts(app) == [1, 0]


@POSTGRESQL
def test_of_two_registrations_at_once_the_second_finds_the_first(app, race):
    first, second = race(*[lambda: registration.register("hello", "2.12.1")] * 2)

    assert (first.name, second) == ("hello", None)
    assert counts(app) == [1, 0]
