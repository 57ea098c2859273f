"""The schema of a database: which revision it has, and bringing it up to date."""

import importlib
from typing import Any

from flask import current_app
from sqlalchemy import Connection, Engine, MetaData, inspect, text

from config import HERE, VERSION
from models import DATABASE_AWAY, cause, db

MIGRATIONS = HERE / "migrations"
# Read once: files that a later version puts in their place say nothing about this process.
KNOWN = sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
OTHER = "the schema is "
NEWER = ", of a newer version than this, "
VIRTUAL_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
)


def state(engine: Engine) -> str:
    """Return `ok`, or why a database can't be used."""
    try:
        with engine.connect() as connection:
            current = revision(connection)
    except DATABASE_AWAY as error:
        return f"the database does not answer: {cause(error)}"
    if current is not None and current not in KNOWN:
        what_to_do = "start that version, or restore a backup from before the upgrade"
        return f"{OTHER}{current}{NEWER}{VERSION} ({KNOWN[-1]}): {what_to_do}"
    if current != KNOWN[-1]:
        return f"{OTHER}{current}, not {KNOWN[-1]}: run flask init-db"
    return "ok"


def revision(connection: Connection) -> str | None:
    """Return the revision that Alembic has noted; None for a database without a schema."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revisions = connection.scalars(text("SELECT version_num FROM alembic_version"))
    found: str | None = revisions.first()
    return found


def upgrade(engine: Engine) -> None:
    """Create the schema, or bring it up to date."""
    # Imported here, since serving never needs it, and its import is a fifth of the start.
    flask_migrate = importlib.import_module("flask_migrate")
    migrate = flask_migrate.Migrate(
        current_app, db, directory=str(MIGRATIONS), render_as_batch=True
    )

    def with_engine(config: Any) -> Any:
        config.attributes["engine"] = engine
        return config

    migrate.configure(with_engine)
    flask_migrate.upgrade()


def drop_all(engine: Engine) -> None:
    """Drop all tables, also those that no model of this version describes."""
    found = MetaData()
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # A virtual table takes its shadow tables along, which can't be dropped one by one.
            for name in connection.scalars(text(VIRTUAL_TABLES)).all():
                connection.exec_driver_sql(f"DROP TABLE {name}")
        found.reflect(connection)
        found.drop_all(connection)
