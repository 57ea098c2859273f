"""flask doctor: what is right and wrong with a host, one line each, and an exit code."""

import os
import re
import socket
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import update
from support import POSTGRESQL, SQLITE, until

import drain
import nix
import services
from commands import doctor_host, doctor_service, findings
from commands.findings import Level
from models import Package, Task, db, soon
from worker import Pool


@pytest.fixture
def examine(app):
    """Return a function that makes one check, and returns level and text of what it finds."""

    def examine(check, app=app):
        with app.app_context():
            return [(one.level, one.text, one.remedy) for one in check()]

    return examine


@pytest.fixture
def production(make_app):
    """Return a function that makes an application in production, with these settings."""
    return lambda **settings: make_app(APP_ENV="production", **settings)


def levels(found):
    return [level for level, _, _ in found]


# --- The whole page ---


def run(app):
    return app.test_cli_runner().invoke(args=["doctor"])


def test_a_healthy_host_has_a_page_of_lines_without_errors(app, schedule, get_task, pool, settings):
    task_id = schedule()
    pool.start()
    until(lambda: get_task(task_id)["status"] == "succeeded")
    if settings["DATABASE_URL"].startswith("sqlite"):
        copy = str(app.config["DATA_DIR"] / "copy.db")
        assert app.test_cli_runner().invoke(args=["backup", copy]).exit_code == 0

    done = run(app)

    *lines, last = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("error")], done.stdout
    assert re.search(r"^ok       catalog .*: it evaluates$", done.stdout, re.MULTILINE)
    assert re.search(r"^ok       roots: Nix keeps all 1 downloaded", done.stdout, re.MULTILINE)
    assert (done.exit_code, last.partition(",")[0]) in ((0, "errors: 0"), (1, "errors: 0"))


@pytest.mark.parametrize("url", ["sqlite:///{folder}/no.db", "postgresql://127.0.0.1:1/pkgd"])
def test_a_host_without_nix_and_a_database_is_told_so_and_nothing_is_made(
    create_app, tmp_path, programs, url
):
    (tmp_path / "data").mkdir()
    url = url.format(folder=tmp_path)
    app = create_app({"DATA_DIR": tmp_path / "data", "STORE_DIR": tmp_path, "DATABASE_URL": url})
    (programs / "nix-store").unlink()
    before = sorted(tmp_path.rglob("*"))

    done = run(app)

    assert done.exit_code == 2
    assert re.search(r"^error    database: ", done.stdout, re.MULTILINE)
    assert "error    nix: nix-store is not on PATH\n         -> " in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_without_a_data_folder_there_is_one_error(create_app, tmp_path):
    app = create_app({"DATA_DIR": tmp_path / "data", "STORE_DIR": tmp_path / "store"})
    app.config["DATA_DIR"] = tmp_path / "nowhere"

    done = run(app)

    assert done.exit_code == 2
    assert done.stdout.startswith(f"error    data: there is no DATA_DIR {tmp_path}/nowhere\n")


@pytest.fixture
def slow_disk(monkeypatch):
    """A check that does not end before the deadline."""
    monkeypatch.setattr("commands.findings.DEADLINE_SECONDS", 0.2)
    there_again = threading.Event()

    def slow_disk():
        there_again.wait(60)
        yield findings.ok("late", "late")

    yield slow_disk
    there_again.set()
    for thread in [one for one in threading.enumerate() if one.name == "slow_disk"]:
        thread.join()


@SQLITE
def test_a_check_that_hangs_or_fails_is_told_and_holds_nothing_up(app, slow_disk, monkeypatch):
    def broken_disk():
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr("commands.doctor.CHECKS", (slow_disk, broken_disk))

    done = run(app)

    assert done.exit_code == 2
    assert "error    slow disk: no answer within 0.2 s\n" in done.stdout
    assert "error    broken disk: [Errno 5] Input/output error\n" in done.stdout


@SQLITE
def test_what_is_no_time_in_the_database_is_told_and_holds_nothing_up(app, register, examine):
    register()
    with app.app_context(), db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE packages SET status = 'downloaded', store_paths = '{'")

    done = run(app)

    assert re.search("error    roots: Expecting property name", done.stdout), done.stdout


def test_every_finding_is_a_line_whatever_it_quotes():
    said = str(findings.warning("it", "two\nlines \x1b[31mred", "do\nthis"))

    assert said == "warning  it: two lines red\n         -> do this"


# --- The service ---


@SQLITE
def test_another_user_than_the_owner_is_told_to_be_the_owner(app, examine):
    os.chown(app.config["DATA_DIR"], 12345, -1)

    ((level, _, remedy),) = examine(doctor_service.version)

    assert (level, "as the user 12345" in remedy) == (Level.WARNING, True)
    os.chown(app.config["DATA_DIR"], os.geteuid(), -1)
    assert levels(examine(doctor_service.version)) == [Level.OK]


@SQLITE
def test_a_setting_without_an_effect_is_a_warning(examine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert levels(examine(doctor_service.settings)) == [Level.OK]
    (tmp_path / ".env").write_text("CATALOG=/x\n")

    ((level, text, _),) = examine(doctor_service.settings)

    assert (level, text) == (Level.WARNING, "'CATALOG' is no setting; did you mean CATALOGS?")


@SQLITE
def test_keys_that_are_short_or_open_are_told(app, examine, make_app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app.config["DATA_DIR"].joinpath("app.db").chmod(0o600)
    assert levels(examine(doctor_service.keys)) == [Level.OK]
    (tmp_path / ".env").write_text("PORT=8001\n")
    (tmp_path / ".env").chmod(0o644)

    found = examine(doctor_service.keys, make_app(SECRET_KEY="short"))

    assert [text for _, text, _ in found] == [
        "SECRET_KEY has 5 bytes, and should have 32",
        "others may use .env (-rw-r--r--)",
    ]


@SQLITE
def test_a_data_folder_of_another_store_is_an_error(app, examine, make_app, tmp_path):
    app.test_cli_runner().invoke(args=["init-db"])
    assert levels(examine(doctor_service.data_dir)) == [Level.OK]

    found = examine(doctor_service.data_dir, make_app(STORE_DIR=tmp_path / "other"))

    assert (levels(found), "belongs to" in found[0][1]) == ([Level.ERROR], True)


@SQLITE
def test_a_data_folder_that_can_not_be_written_is_an_error(app, examine, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere

    assert levels(examine(doctor_service.data_dir)) == [Level.ERROR]


@SQLITE
@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({"BIND": "127.0.0.1", "TRUSTED_PROXIES": 1}, Level.OK),
        ({"BIND": "127.0.0.1", "TRUSTED_PROXIES": 0}, Level.WARNING),
        ({"BIND": "0.0.0.0", "TRUSTED_PROXIES": 1}, Level.WARNING),
        ({"BIND": "0.0.0.0", "TRUSTED_PROXIES": 0}, Level.ERROR),
    ],
)
def test_proxies_and_addresses_must_fit(production, examine, given, level):
    assert levels(examine(doctor_service.proxies, production(**given))) == [level]


def test_a_database_with_this_schema_is_in_order(examine):
    assert levels(examine(doctor_service.database)) == [Level.OK]


@SQLITE
def test_a_database_with_another_schema_is_an_error(examine, make_app, tmp_path):
    (tmp_path / "empty.db").touch()
    app = make_app(DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")

    ((level, text, _),) = examine(doctor_service.database, app)

    assert (level, "the schema is None" in text) == (Level.ERROR, True)


@SQLITE
def test_a_database_out_of_wal_mode_is_a_warning(examine, app):
    with app.app_context(), db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")

    assert levels(examine(doctor_service.database)) == [Level.WARNING]


def test_tokens_must_be_there_and_fit_the_key(examine, anonymous, make_app):
    assert levels(examine(doctor_service.tokens)) == [Level.WARNING]
    anonymous.post("/api/v1/tokens")
    assert levels(examine(doctor_service.tokens)) == [Level.OK]

    other = make_app(SECRET_KEY="another-key-that-is-just-as-long-as-it-must-be")
    assert levels(examine(doctor_service.tokens, other)) == [Level.ERROR]


def test_a_queue_that_nobody_works_is_told(app, examine, schedule, pool, make_app):
    assert levels(examine(doctor_service.queue)) == [Level.WARNING]
    schedule()
    with app.app_context():
        db.session.execute(update(Task).values(created_at=soon(-7200)))
        db.session.commit()
    drain.begin(app.config["DATA_DIR"])

    texts = [text for _, text, _ in examine(doctor_service.queue)]

    assert texts[0].startswith("drained since ")
    assert texts[1] == "no worker runs with this DATA_DIR"
    assert texts[2].startswith("a task waits since ")
    ((_, text, remedy), *_) = examine(doctor_service.queue, make_app(READ_ONLY="true"))
    assert (text[:9], remedy) == ("READ_ONLY", "unset READ_ONLY, and restart")


@SQLITE
def test_a_queue_that_is_worked_is_right(app, examine, pool):
    services.get(Pool, app).start()

    assert examine(doctor_service.queue) == [(Level.OK, "1 processes take tasks", "")]


@SQLITE
def test_a_backup_must_have_been_made_lately(app, examine, tmp_path):
    assert levels(examine(doctor_service.backups)) == [Level.WARNING]
    app.test_cli_runner().invoke(args=["backup", str(tmp_path / "b.db")], catch_exceptions=False)
    ((level, text, _),) = examine(doctor_service.backups)
    assert (level, text) == (Level.OK, f"{tmp_path}/b.db, 0 hours ago")

    old = time.time() - timedelta(days=3).total_seconds()
    os.utime(app.config["DATA_DIR"] / "last_backup", (old, old))

    assert levels(examine(doctor_service.backups)) == [Level.WARNING]


def test_a_downloaded_package_without_a_root_is_an_error(app, examine, downloaded):
    downloaded()
    assert levels(examine(doctor_service.roots)) == [Level.OK]

    with app.app_context():
        db.session.execute(update(Package).values(store_paths=["/nix/store/other"]))
        db.session.commit()

    ((level, text, _),) = examine(doctor_service.roots)
    assert (level, text) == (Level.ERROR, "1 of 1 downloaded packages have no GC root")


@SQLITE
def test_times_of_the_future_in_the_database_are_an_error(app, examine, schedule):
    assert examine(doctor_service.times) == []
    schedule()
    assert examine(doctor_service.times) == []
    with app.app_context():
        db.session.execute(update(Task).values(created_at=soon(3600)))
        db.session.commit()

    assert levels(examine(doctor_service.times)) == [Level.ERROR]


@POSTGRESQL
def test_the_clock_of_postgresql_is_compared(examine, monkeypatch):
    assert examine(doctor_service.times) == []

    monkeypatch.setattr("commands.doctor_service.CLOCK_SECONDS", -1)

    assert levels(examine(doctor_service.times)) == [Level.ERROR]


# --- The host ---


@SQLITE
@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        ("throw ''x''", Level.ERROR, "correct CATALOGS"),
        ("throw ''This version of Nixpkgs requires Nix >= 99.1''", Level.ERROR, "a newer Nix"),
        ("{ }", Level.OK, "it evaluates; it wants Nix 2.3"),
    ],
)
def test_a_catalog_that_fails_or_wants_a_newer_nix_is_an_error(
    make_app, examine, tmp_path, store, text, level, said
):
    nix.check(store)  # any question to Nix makes the store
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "minver.nix").write_text('"2.3"')
    (tmp_path / "default.nix").write_text(text)

    (found,) = examine(doctor_host.catalogs, make_app(CATALOGS=tmp_path))

    assert found[0] == level
    assert said in f"{found[1]} {found[2]}"


@SQLITE
def test_a_store_that_is_yet_to_be_made_is_left_unmade(make_app, examine, tmp_path):
    app = make_app(STORE_DIR=tmp_path / "new")

    ((level, text, _),) = examine(doctor_host.nix_itself, app)

    assert (level, "the first task makes the store" in text) == (Level.OK, True)
    assert levels(examine(doctor_host.catalogs, app)) == [Level.OK]
    assert not (tmp_path / "new" / "store").exists()


@SQLITE
@pytest.mark.parametrize(("free", "level"), [(1, Level.OK), (2**39, None), (2**60, Level.ERROR)])
def test_too_little_space_is_told(app, examine, free, level, monkeypatch):
    app.config["MIN_FREE_BYTES"] = free
    if level is None:
        monkeypatch.setattr("commands.doctor_host.ROOM", 2**60)
        app.config["MIN_FREE_BYTES"], level = 1, Level.WARNING

    assert set(levels(examine(doctor_host.disk))) == {level}


@pytest.fixture
def daemon_of(app):
    """Return a function that gives the application's store other variables, and returns it."""

    def daemon_of(**environ):
        store = services.get(nix.Store, app)
        services.add(app, nix.Store({**store.environ, **environ}))

    return daemon_of


@SQLITE
def test_a_daemon_that_is_needed_must_take_connections(examine, daemon_of, tmp_path):
    assert levels(examine(doctor_host.daemon)) == [Level.OK]
    path = str(tmp_path / "socket")
    daemon_of(NIX_REMOTE="daemon", NIX_DAEMON_SOCKET_PATH=path)

    assert levels(examine(doctor_host.daemon)) == [Level.ERROR]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert examine(doctor_host.daemon) == [(Level.OK, path, "")]


@SQLITE
@pytest.mark.parametrize(
    ("config", "level"),
    [
        ("build-users-group =", Level.OK),
        ("build-users-group = nobody-of-that-name", Level.ERROR),
        ("build-users-group = root-and-members", Level.OK),
    ],
)
def test_a_daemon_needs_users_to_build_as(examine, daemon_of, config, level, monkeypatch):
    daemon_of(NIX_REMOTE="daemon", NIX_CONFIG=config)
    entry = type("Group", (), {"gr_mem": ["one"]})
    real = doctor_host.grp.getgrnam
    known = {"root-and-members": entry}
    monkeypatch.setattr("grp.getgrnam", lambda name: known.get(name) or real(name))

    assert levels(examine(doctor_host.build_users)) == [level]


@SQLITE
def test_builds_of_a_private_store_of_another_user_need_no_users(examine, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert levels(examine(doctor_host.build_users)) == [Level.OK]


@SQLITE
@pytest.mark.parametrize(
    ("value", "level"), [("true", Level.OK), ("relaxed", Level.WARNING), ("false", Level.WARNING)]
)
def test_a_sandbox_that_is_off_is_a_warning_in_production(
    production, examine, tmp_path, value, level
):
    app = production()
    store = services.get(nix.Store, app)
    (tmp_path / "nix.conf").write_text(f"# sandbox = yes\nsandbox = {value} # here\nsubstitute =\n")
    environ = {**store.environ, "NIX_CONF_DIR": str(tmp_path), "NIX_CONFIG": ""}
    services.add(app, nix.Store(environ))

    assert levels(examine(doctor_host.sandbox, app)) == [level]
    with app.app_context():
        assert nix.setting(services.get(nix.Store), "substitute") == ""


@SQLITE
def test_a_sandbox_that_is_off_in_development_is_as_it_should_be(examine):
    assert levels(examine(doctor_host.sandbox)) == [Level.OK]


FACTS = "LoadState={}\nActiveState={}\nResult=exit-code\nNRestarts={}\nNeedDaemonReload={}"


@pytest.fixture
def systemd(programs, tmp_path, monkeypatch):
    """Return a function that has systemd's programs show these facts."""

    def systemd(facts):
        monkeypatch.setattr("commands.doctor_host.SYSTEMD", tmp_path)
        for name in ("systemctl", "timedatectl"):
            (programs / name).unlink(missing_ok=True)
            (programs / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{facts}'\n")
            (programs / name).chmod(0o755)

    return systemd


@SQLITE
@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (("loaded", "active", "0", "no"), Level.OK, "is active"),
        (("loaded", "failed", "0", "no"), Level.ERROR, "has failed: exit-code"),
        (("loaded", "inactive", "0", "no"), Level.WARNING, "is inactive"),
        (("loaded", "active", "3", "no"), Level.WARNING, "was started again 3 times"),
        (("loaded", "active", "0", "yes"), Level.WARNING, "was changed"),
        (("not-found", "inactive", "0", "no"), Level.WARNING, "is not installed"),
    ],
)
def test_the_unit_and_its_socket_are_looked_at(systemd, examine, facts, level, said):
    systemd(FACTS.format(*facts))

    found = examine(doctor_host.unit)

    assert levels(found) == [level, level]
    assert [text for _, text, _ in found] == [
        f"pkgd.{kind} {said}" for kind in ("service", "socket")
    ]


@SQLITE
def test_systemd_that_does_not_answer_and_none_at_all_are_told(
    examine, programs, monkeypatch, tmp_path
):
    assert levels(examine(doctor_host.unit)) == [Level.OK]

    monkeypatch.setattr("commands.doctor_host.SYSTEMD", tmp_path)

    assert levels(examine(doctor_host.unit)) == [Level.WARNING, Level.WARNING]


@SQLITE
@pytest.mark.parametrize(("facts", "level"), [("yes", Level.OK), ("no", Level.WARNING)])
def test_a_clock_that_nobody_sets_is_told(systemd, examine, facts, level):
    systemd(f"NTPSynchronized={facts}")

    assert levels(examine(doctor_host.clock)) == [level]


@SQLITE
def test_a_data_folder_of_the_future_is_an_error(app, examine):
    later = time.time() + 3600
    os.utime(app.config["DATA_DIR"], (later, later))

    assert levels(examine(doctor_host.clock)) == [Level.ERROR]
