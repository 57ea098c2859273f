"""READ_ONLY: reading goes on, and nothing is written to the database."""

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import InternalError, OperationalError
from support import SQLITE, bearing

import services
from health import check_start
from models import Task, Token, db
from worker import Pool

CHANGING_COMMANDS = (
    ["create-token"],
    ["reconcile"],
    ["gc"],
    ["prune"],
    ["catalog", "add", "new", "file:///nowhere.tar.gz"],
    ["catalog", "update", "new", "file:///nowhere.tar.gz"],
    ["catalog", "remove", "new"],
    ["catalog", "index"],
)
READING_COMMANDS = (
    ["init-db"],
    ["gc", "--dry-run"],
    ["prune", "--dry-run"],
    ["catalog", "list"],
    ["drain"],
    ["resume"],
)


@pytest.fixture
def reader(client, make_app):
    """A client of the same service, but with READ_ONLY set."""
    return bearing(make_app(READ_ONLY="true"), client.secret)


@pytest.fixture
def written(app):
    """Return a function that returns all that a service might write by itself."""

    def written():
        with app.app_context():
            tokens = select(Token.last_used_at, Token.digest, func.count().over())
            tasks = select(Task.status, Task.waiting, Task.lease_holder)
            return [db.session.execute(one).all() for one in (tokens, tasks)]

    return written


def test_reads_are_served_and_the_use_of_a_token_is_not_noted(
    client, reader, app, schedule, written
):
    task_id = schedule()
    with app.app_context():
        db.session.execute(update(Token).values(last_used_at=None))
        db.session.commit()
    before = written()

    paths = ["packages", "package/1", "tasks", f"task/{task_id}", f"task/{task_id}/log"]
    paths += ["tokens", "generations", "catalogs", "catalog/hello", "catalog?search=hello"]
    assert [reader.get(f"/api/v1/{path}").status_code for path in paths] == [200] * len(paths)

    assert "pkgd_read_only 1.0" in reader.get("/metrics").text
    assert written() == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "packages"),
        ("POST", "package/1/download"),
        ("POST", "package/1/activate"),
        ("DELETE", "package/1"),
        ("POST", "tokens"),
        ("DELETE", "tokens/all"),
    ],
)
def test_a_write_is_refused_with_the_reason_and_when_to_try_again(
    reader, register, written, method, path
):
    register()
    before = written()

    answer = reader.open(f"/api/v1/{path}", method=method)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert answer.json["type"] == "urn:pkgd:problem:read-only"
    assert "(READ_ONLY)" in answer.json["detail"]
    assert written() == before


@SQLITE
def test_what_is_no_write_gets_the_answers_that_it_always_gets(reader):
    assert reader.post("/api/v1/nope").status_code == 404
    assert reader.put("/api/v1/packages").status_code == 405
    assert reader.application.test_client().post("/api/v1/packages").status_code == 401
    assert reader.options("/api/v1/packages").status_code == 200


def test_workers_take_nothing_and_the_service_is_ready(reader, schedule, written):
    schedule()
    before = written()
    pool = services.get(Pool, reader.application)
    check_start(reader.application)

    pool.start()

    answer = reader.get("/readyz")
    assert (answer.status_code, pool.size) == (200, 0)
    assert answer.json["checks"]["workers"] == "ok, but READ_ONLY is set: no task is taken"
    assert written() == before


def test_the_database_itself_refuses_to_write(reader):
    with reader.application.app_context():
        with pytest.raises((OperationalError, InternalError), match=r"read.?only"):
            db.session.execute(update(Token).values(name="written"))
        db.session.rollback()


@pytest.mark.parametrize("arguments", CHANGING_COMMANDS, ids=" ".join)
def test_commands_that_would_write_are_refused_in_one_line(reader, written, arguments):
    before = written()

    refused = reader.application.test_cli_runner().invoke(args=arguments)

    expected = "Error: READ_ONLY is set: this command would change something\n"
    assert (refused.exit_code, refused.output) == (1, expected)
    assert written() == before


@pytest.mark.parametrize("arguments", READING_COMMANDS, ids=" ".join)
def test_commands_that_only_read_work(reader, arguments):
    done = reader.application.test_cli_runner().invoke(args=arguments)

    assert done.exit_code == 0, done.output


def test_an_old_schema_is_left_as_it_is(create_app, tmp_path):
    app = create_app({"DATA_DIR": tmp_path / "new", "READ_ONLY": "true"})

    refused = app.test_cli_runner().invoke(args=["init-db"])

    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)


@SQLITE
def test_a_backup_is_made_of_a_service_that_only_reads(reader, tmp_path):
    runner = reader.application.test_cli_runner()

    assert runner.invoke(args=["backup", str(tmp_path / "copy.db")]).exit_code == 0
