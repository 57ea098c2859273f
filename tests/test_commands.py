"""The commands of an operator on the host."""

import sqlite3

import pytest
from conftest import bearing

from app import create_app


@pytest.fixture
def command(app):
    """Return a function that runs a `flask` command."""

    def command(*arguments, **more):
        return app.test_cli_runner().invoke(args=arguments, **more)

    return command


def test_init_db_keeps_what_there_is(command, client, register):
    register()

    again = command("init-db")

    assert (again.exit_code, again.output[:22]) == (0, "The database is ready:")
    assert client.get("/api/v1/package/1").status_code == 200


def test_init_db_makes_the_data_folder_and_a_journal_that_readers_do_not_wait_for(tmp_path):
    app = create_app({"DATA_DIR": tmp_path / "new"})

    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)

    with sqlite3.connect(tmp_path / "new" / "app.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_init_db_starts_afresh_only_after_a_confirmation(command, client, register):
    register()

    refused = command("init-db", "--drop", input="n\n")

    assert refused.exit_code == 1
    assert client.get("/api/v1/package/1").status_code == 200


@pytest.mark.parametrize(("arguments", "typed"), [(["--drop"], "y\n"), (["--drop", "--yes"], None)])
def test_init_db_starts_afresh_when_told_to(command, anonymous, client, register, arguments, typed):
    register()

    dropped = command("init-db", *arguments, input=typed)

    assert dropped.exit_code == 0
    assert client.get("/api/v1/package/1").status_code == 401
    assert anonymous.post("/api/v1/tokens").status_code == 201


def test_create_token_prints_a_token_that_works(app, command):
    printed = command("create-token", "--name", "robot", "--scope", "read")

    reader = bearing(app, printed.stdout.strip())
    assert reader.get("/api/v1/packages").status_code == 200
    assert reader.post("/api/v1/packages").status_code == 403


def test_create_token_makes_an_admin_by_default(app, command):
    admin = bearing(app, command("create-token").stdout.strip())

    (token,) = admin.get("/api/v1/tokens").json
    assert (token["scope"], token["name"]) == ("admin", None)


def test_run_worker_refuses_to_run_nothing(make_app):
    app = make_app(WORKER_THREADS=0)

    refused = app.test_cli_runner().invoke(args=["run-worker"])

    assert refused.exit_code == 1
    assert "WORKER_THREADS is 0" in refused.output
