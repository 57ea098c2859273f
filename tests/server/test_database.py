"""The file of a SQLite database that is gone, replaced or damaged while the service runs."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError
from support import SQLITE, until

from models import Package, db

pytestmark = SQLITE

GONE = "the file of the database is gone, or another one: restore it from a backup"
DAMAGED = "the file of the database is damaged"


@pytest.fixture
def file(database_url):
    """The file of the database."""
    return Path(make_url(database_url).database)


def refused(client):
    """Return what every kind of request is told, and whether the service is ready."""
    body = {"name": "hello", "version": "9.0.0"}
    answers = [client.post("/api/v1/packages", json=body), client.get("/api/v1/packages")]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[0].json["type"] == "urn:pkgd:problem:database-unavailable"
    ready = client.get("/readyz")
    assert ready.status_code == 503
    (reason,) = ready.json["errors"]["database"]
    return [*(answer.json["detail"] for answer in answers), reason]


def test_nothing_is_written_to_a_deleted_file_and_none_is_made(client, file, register):
    register()
    file.unlink()

    for said in refused(client):
        assert GONE in said
    assert not file.exists()


def test_a_file_that_comes_back_is_used_again(client, file, register):
    register()
    moved = file.rename(file.with_name("moved"))
    assert client.get("/api/v1/packages").status_code == 503

    moved.rename(file)

    assert len(client.get("/api/v1/packages").json) == 1


def test_a_backup_in_the_place_of_the_file_waits_for_a_restart(client, file, register, make_app):
    backup = shutil.copy(file, file.with_name("backup"))
    register()
    Path(backup).rename(file)

    for said in refused(client):
        assert GONE in said
    assert make_app().test_client().get("/api/v1/packages").status_code == 401


def damage(file):
    """Overwrite the file; what SQLite has in its log or in memory is still right."""
    file.write_bytes(b"\1" * file.stat().st_size)


def test_a_file_that_was_damaged_before_it_is_opened_is_told_as_that(client, app, file):
    with app.app_context():
        db.engine.dispose()
    damage(file)

    for said in refused(client):
        assert f"{DAMAGED} (file is not a database): restore it from a backup" in said


def test_after_a_read_of_a_damaged_page_nothing_is_written(client, file, register):
    register()
    damage(file)
    until(lambda: client.get("/api/v1/tasks").status_code == 503)

    for said in refused(client):
        assert DAMAGED in said


def test_a_file_that_is_deleted_in_a_transaction_is_not_committed_to(app, file):
    with app.app_context():
        db.session.add(Package(name="hello", version="1.0.0"))
        db.session.flush()
        file.unlink()

        with pytest.raises(Exception, match=GONE):
            db.session.commit()
        db.session.rollback()


def test_other_errors_of_the_database_stay_what_they_are(app):
    with app.app_context():
        db.session.add_all(Package(name="hello", version="1.0.0") for _ in range(2))
        with pytest.raises(IntegrityError, match="UNIQUE constraint failed"):
            db.session.commit()


def test_a_pool_goes_on_after_its_file_was_gone(client, file, pool, schedule, get_task):
    task_id = schedule()
    moved = file.rename(file.with_name("moved"))
    with pytest.raises(Exception, match=GONE):
        pool.run_one()

    moved.rename(file)
    pool.run_one()

    assert get_task(task_id)["status"] == "succeeded"
