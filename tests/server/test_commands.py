"""The `flask` commands."""

import os
import re
import resource
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from support import POSTGRESQL, SQLITE, bearing

from config import VERSION
from database import KNOWN, state
from health import check_start
from models import db


@pytest.fixture
def command(app):
    """Return a function that runs a `flask` command."""

    def command(*arguments, **more):
        return app.test_cli_runner().invoke(args=arguments, **more)

    return command


@pytest.mark.parametrize("group", [[], ["catalog"]], ids=["flask", "catalog"])
def test_the_list_of_commands_has_each_summary_whole(command, group):
    listed = command(*group, "--help", env={"COLUMNS": "80"}).output.partition("Commands:")[2]

    assert "\n  " in listed
    assert "..." not in listed


def test_init_db_keeps_the_data(command, client, register):
    register()

    again = command("init-db")

    assert (again.exit_code, again.output[:22]) == (0, "The database is ready:")
    assert client.get("/api/v1/package/1").status_code == 200


def test_init_db_makes_the_data_folder_and_a_private_database_in_wal_mode(tmp_path, create_app):
    app = create_app({"DATA_DIR": tmp_path / "new"})

    app.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)

    with sqlite3.connect(tmp_path / "new" / "app.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert stat.S_IMODE((tmp_path / "new" / "app.db").stat().st_mode) == 0o600
    connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nonexistent/app.db", "No such file or directory"),
        ("sqlite:///{folder}", "Is a directory|unable to open"),
        ("sqlite:///{folder}/garbage", "is damaged"),
        ("postgresql://127.0.0.1:1/pkgd", "Connection refused"),
    ],
)
def test_init_db_says_in_one_line_what_is_wrong_with_the_database(tmp_path, create_app, url, said):
    (tmp_path / "garbage").write_bytes(b"garbage " * 1000)
    app = create_app({"DATA_DIR": tmp_path / "new", "DATABASE_URL": url.format(folder=tmp_path)})

    refused = app.test_cli_runner().invoke(args=["init-db"])

    assert (refused.exit_code, refused.output.count("\n")) == (1, 1), refused.output
    assert re.search(said, refused.output)
    assert not (tmp_path / "new" / "belongs_to.json").exists()


@pytest.fixture
def newer_schema(app):
    """Note in the database that a later version of the service has changed its schema."""

    def note(revision):
        with app.app_context(), db.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")

    note("9999")
    yield
    note(KNOWN[-1])


def test_a_database_of_a_newer_version_is_told_in_one_line_and_left_as_it_is(
    app, command, newer_schema
):
    line = f"the schema is 9999, of a newer version than this, {VERSION} ({KNOWN[-1]}): "

    refused = command("init-db")

    assert (refused.exit_code, refused.output.count("\n")) == (os.EX_CONFIG, 1)
    assert refused.output.startswith(f"Error: {line}start that version, or restore")
    assert app.test_client().get("/readyz").json["errors"]["database"][0].startswith(line)
    with pytest.raises(SystemExit, match=re.escape(line)) as end:
        check_start(app)
    assert end.value.code == os.EX_CONFIG
    with app.app_context():
        assert state().startswith(line)


def test_init_db_takes_the_uri_of_a_file(tmp_path, create_app):
    url = f"sqlite:///file:{tmp_path}/named.db?uri=true"
    app = create_app({"DATA_DIR": tmp_path / "new", "DATABASE_URL": url})

    done = app.test_cli_runner().invoke(args=["init-db"])

    assert done.exit_code == 0, done.output
    assert stat.S_IMODE((tmp_path / "named.db").stat().st_mode) == 0o600


def test_a_backup_has_a_name_that_is_text(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("init-db")

    refused = command("backup", "a\udcffb")

    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".a", "a"))]


def test_init_db_deletes_nothing_without_a_confirmation(command, client, register):
    register()

    refused = command("init-db", "--drop", input="n\n")

    assert refused.exit_code == 1
    assert client.get("/api/v1/package/1").status_code == 200


@pytest.mark.parametrize(("arguments", "typed"), [(["--drop"], "y\n"), (["--drop", "--yes"], None)])
def test_init_db_deletes_everything_after_a_confirmation(
    command, anonymous, client, register, arguments, typed
):
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


def test_create_token_without_a_schema_names_the_command_to_run(tmp_path, create_app):
    app = create_app({"DATA_DIR": tmp_path})

    refused = app.test_cli_runner().invoke(args=["create-token"])

    assert refused.exit_code == 1
    assert refused.output.endswith("run flask init-db\n")


def test_run_worker_refuses_to_run_without_threads(make_app):
    app = make_app(WORKER_THREADS=0)

    refused = app.test_cli_runner().invoke(args=["run-worker"])

    assert refused.exit_code == os.EX_CONFIG
    assert "WORKER_THREADS is 0" in refused.output


@SQLITE
def test_a_backup_during_writes_is_consistent(command, client, add_packages, tmp_path):
    add_packages(100)
    with ThreadPoolExecutor(4) as threads:
        writes = [threads.submit(register_made, client, n) for n in range(200)]
        done = command("backup", str(tmp_path / "copy.db"))
    assert {write.result() for write in writes} == {201}

    assert done.exit_code == 0, done.output
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert 100 <= copy.execute("SELECT count(*) FROM packages").fetchone()[0] <= 300
    copy.close()
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


def register_made(client, number):
    """Register a package over a client of its own; return the status."""
    one = bearing(client.application, client.secret)
    body = {"name": "app", "version": f"{number}.0.0"}
    return one.post("/api/v1/packages", json=body).status_code


@SQLITE
def test_a_backup_does_not_overwrite_a_file(command, tmp_path, settings):
    (tmp_path / "copy.db").write_text("precious")

    refused = command("backup", str(tmp_path / "copy.db"))

    assert refused.exit_code == 1
    assert (tmp_path / "copy.db").read_text() == "precious"


@pytest.fixture
def small_files():
    """Let this process write no file larger than 48 KiB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@SQLITE
def test_a_backup_that_fails_leaves_nothing_on_the_disk_that_is_full(
    command, tmp_path, small_files
):
    (tmp_path / "backups").mkdir()

    failed = command("backup", str(tmp_path / "backups" / "copy.db"))

    assert (failed.exit_code, failed.output.count("\n")) == (1, 1)
    assert re.search("full|disk I/O error", failed.output)
    assert list((tmp_path / "backups").iterdir()) == []


@SQLITE
def test_a_backup_is_a_success_even_if_nobody_can_be_told_of_it(command, settings, tmp_path):
    (settings["DATA_DIR"] / "last_backup").mkdir()

    done = command("backup", str(tmp_path / "copy.db"))

    assert done.exit_code == 0
    assert "but flask doctor can't know of it: [Errno 21] Is a directory" in done.output
    assert (tmp_path / "copy.db").exists()


@SQLITE
def test_a_restored_backup_needs_no_correction(make_app, settings, client, activated, tmp_path):
    activated()
    copy = tmp_path / "copy.db"
    client.application.test_cli_runner().invoke(args=["backup", str(copy)], catch_exceptions=False)

    restored = make_app(DATABASE_URL=f"sqlite:///{copy}")
    restored.test_cli_runner().invoke(args=["adopt", "--yes"], catch_exceptions=False)

    assert restored.test_cli_runner().invoke(args=["reconcile"]).output == "all as it should be\n"
    (package,) = bearing(restored, client.secret).get("/api/v1/packages").json
    assert package["status"] == "activated"


@SQLITE
def test_tokens_of_a_backup_from_before_a_change_of_the_key_fit_the_former_key(
    make_app, settings, client, tmp_path
):
    copy = tmp_path / "copy.db"
    client.application.test_cli_runner().invoke(args=["backup", str(copy)], catch_exceptions=False)
    keys = {"SECRET_KEY": "another-key-that-is-just-as-long-as-it-must-be"}
    restored = {"DATABASE_URL": f"sqlite:///{copy}", **keys}

    without = bearing(make_app(**restored), client.secret)
    assert without.get("/api/v1/version").status_code == 401

    with_former = bearing(
        make_app(**restored, SECRET_KEY_FALLBACKS=settings["SECRET_KEY"]), client.secret
    )
    assert with_former.get("/api/v1/version").status_code == 200


@POSTGRESQL
def test_a_backup_of_postgresql_is_refused_with_the_command_to_use(command, settings, tmp_path):
    refused = command("backup", str(tmp_path / "copy.db"))

    assert refused.exit_code == 1
    assert "use pg_dump" in refused.output


def test_a_token_with_too_long_a_name_is_refused_in_a_line(app):
    done = app.test_cli_runner().invoke(args=["create-token", "--name", "x" * 101])

    assert done.exit_code == 2
    assert "Longer than maximum length 100" in done.output or "between 1 and 100" in done.output


@pytest.mark.parametrize(
    ("given", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("15m", 900), ("90", 90)]
)
def test_create_token_takes_the_life_of_a_token(app, command, given, seconds):
    secret = command("create-token", "--expires-in", given).stdout.strip()

    (token,) = bearing(app, secret).get("/api/v1/tokens").json
    times = (datetime.fromisoformat(token[name]) for name in ("created_at", "expires_at"))
    created, expires = times
    assert (expires - created).total_seconds() == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize(
    "given", ["", "soon", "0", "-1d", "0.5", "9999999d", "99999999999999d", "\u0661d"]
)
def test_create_token_refuses_a_life_that_the_api_refuses(command, given):
    refused = command("create-token", "--expires-in", given)

    assert refused.exit_code == 2
    assert "Invalid value for '--expires-in'" in refused.output
