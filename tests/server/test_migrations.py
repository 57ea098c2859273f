"""Migrations: a database with the first schema, and data, is brought up to date."""

import flask_migrate
import psycopg
import pytest
import sqlalchemy as sa
from support import SQLITE, bearing

from auth import digest
from database import MIGRATIONS, drop_all
from models import db

WHEN = "2026-01-01 00:00:00.000000"
COUNT = 1000


@pytest.fixture
def first_schema(make_app, settings):
    """An application whose database has the first schema, with data."""
    app = make_app()
    with app.app_context():
        app.test_cli_runner().invoke(args=["init-db", "--drop", "--yes"], catch_exceptions=False)
        db.session.remove()
        drop_all(db.engine)
        flask_migrate.upgrade(revision="0001")
        with db.engine.begin() as connection:
            fill(connection, settings["SECRET_KEY"])
    yield app
    with app.app_context():
        flask_migrate.upgrade()  # the next test uses the same PostgreSQL database


def fill(connection, key):
    """Add packages, each with a task and its log, and tokens."""
    tables = sa.MetaData()
    tables.reflect(connection)
    time = sa.literal_column(f"'{WHEN}'")
    for name, rows in {
        "packages": [{"id": n, "name": f"made-{n}", "version": "1.0.0"} for n in range(1, COUNT)],
        "tasks": [{"seq": n, "package_id": n, "attempt": 1} for n in range(1, COUNT)],
        "tokens": [{"id": 1, "scope": "admin", "digest": digest("pkgd_old", key)}],
    }.items():
        columns = {
            "packages": {"status": "created", "created_at": time, "updated_at": time},
            "tasks": {"status": "failed", "done": 0, "expected": 0, "created_at": time},
            "tokens": {"created_at": time, "expires_at": sa.literal_column("'2126-01-01'")},
        }[name]
        extra = {"tasks": {"cancel_requested": False}, "tokens": {"first": True}}.get(name, {})
        if name == "tasks":
            rows = [row | {"id": f"{row['seq']:032x}"} for row in rows]
        connection.execute(tables.tables[name].insert().values(**columns, **extra), rows)


def test_an_upgrade_keeps_all_data(first_schema):
    upgraded = first_schema.test_cli_runner().invoke(args=["init-db"], catch_exceptions=False)

    assert upgraded.exit_code == 0
    client = bearing(first_schema, "pkgd_old")
    packages = client.get("/api/v1/packages?limit=1000")
    assert packages.headers["X-Total-Count"] == str(COUNT - 1)
    assert packages.json[-1]["task"]["status"] == "failed"
    assert client.get("/api/v1/tasks").headers["X-Total-Count"] == str(COUNT - 1)
    assert client.post("/api/v1/package/1/download").status_code == 202


def test_an_upgrade_keeps_generations_with_their_changes(first_schema):
    with first_schema.app_context():
        flask_migrate.upgrade(revision="0003")
        with db.engine.begin() as connection:
            tables = sa.MetaData()
            tables.reflect(connection)
            time = sa.literal_column(f"'{WHEN}'")
            for number in (7, 3):
                row = {"number": number, "created_at": time, "packages": []}
                connection.execute(tables.tables["generations"].insert().values(**row))
            for number, reason in ((3, "activate"), (7, "replace"), (3, "switch")):
                row = {"generation": number, "at": time, "reason": reason, "by": "me"}
                connection.execute(tables.tables["changes"].insert().values(**row))
        flask_migrate.upgrade()
    for number in (7, 3):
        link = first_schema.config["PROFILE"].with_name(f"profile-{number}-link")
        link.symlink_to("/nonexistent")

    found = bearing(first_schema, "pkgd_old").get("/api/v1/generations").json

    assert [(one["number"], one["created_at"][:10]) for one in found] == [
        (7, "2026-01-01"),
        (3, "2026-01-01"),
    ]
    assert [[c["reason"] for c in one["changes"]] for one in found] == [
        ["replace"],
        ["switch", "activate"],
    ]
    assert found[0]["changes"][0] | {"at": None} == {"at": None, "reason": "replace", "by": "me"}


def test_what_is_active_becomes_the_default_profile_and_nothing_moves_on_disk(first_schema):
    with first_schema.app_context():
        flask_migrate.upgrade(revision="0007")
        with db.engine.begin() as connection:
            add_active(connection)
        links = {}
        for number in (3, 7):
            links[number] = first_schema.config["PROFILE"].with_name(f"profile-{number}-link")
            links[number].symlink_to(f"/nonexistent/{number}")
        first_schema.config["PROFILE"].symlink_to(links[7].name)
        flask_migrate.upgrade()

    client = bearing(first_schema, "pkgd_old")
    shown = client.get("/api/v1/profile/default").json
    assert shown["path"] == str(first_schema.config["PROFILE"])
    assert (shown["generation"], shown["store_path"]) == (7, "/nonexistent/7")
    assert [one["name"] for one in shown["packages"]] == ["made-2"]
    assert client.get("/api/v1/package/2").json["profiles"] == ["default"]
    generations = client.get("/api/v1/generations").json
    assert [(one["number"], one["active"]) for one in generations] == [(7, True), (3, False)]
    assert str(first_schema.config["PROFILE"].readlink()) == "profile-7-link"


def add_active(connection):
    """Add what the schema before named profiles says of an active package."""
    tables = sa.MetaData()
    tables.reflect(connection)
    time = sa.literal_column(f"'{WHEN}'")
    package, generation, change = (
        tables.tables[name] for name in ("packages", "generations", "changes")
    )
    connection.execute(package.update().where(package.c.id == 2).values(status="activated"))
    held = {"id": 2, "name": "made-2", "version": "1.0.0", "store_paths": ["/nonexistent/a"]}
    for number, packages in ((3, []), (7, [held])):
        row = {"number": number, "store_path": f"/nonexistent/{number}", "packages": packages}
        added = generation.insert().values(created_at=time, **row).returning(generation.c.id)
        generation_id = connection.execute(added).scalar_one()
        row = {"generation_id": generation_id, "at": time, "reason": "activate"}
        connection.execute(change.insert().values(**row))


def test_the_models_match_the_migrations(app):
    with app.app_context():
        flask_migrate.Migrate(app, db, directory=str(MIGRATIONS), render_as_batch=True)
        assert flask_migrate.check() is None  # which ends the process where they differ


def test_a_service_with_an_old_schema_is_not_ready(first_schema, make_app):
    app = make_app(APP_ENV="production", WORKER_THREADS=0)

    answer = app.test_client().get("/readyz")

    assert answer.json["errors"]["database"][0].startswith("the schema is 0001, not ")


@SQLITE
def test_a_search_needs_no_extension_of_postgresql(postgres, make_app, tmp_path):
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE ROLE limited LOGIN")
        connection.execute("CREATE DATABASE limited")
    with psycopg.connect(postgres.url("limited"), autocommit=True) as connection:
        connection.execute("ALTER SCHEMA public OWNER TO limited")
    url = postgres.url("limited").replace("postgres@", "limited@")
    app = make_app(DATABASE_URL=url, DATA_DIR=tmp_path / "limited")

    made = app.test_cli_runner().invoke(args=["init-db"])

    assert made.exit_code == 0, made.output
    secret = app.test_client().post("/api/v1/tokens").json["token"]
    found = bearing(app, secret).get("/api/v1/catalog?search=hello").json
    assert found[0]["name"] == "hello"
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT 1 FROM pg_indexes WHERE indexname = 'offer_texts'")
        assert found.fetchone() is None
