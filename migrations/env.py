"""Run all migrations in one transaction, while every other caller waits."""

from alembic import context
from sqlalchemy import Connection

from models import db

LOCK = 0x706B6764  # the key of the advisory lock: arbitrary, but never to be changed


def begin_alone(connection: Connection) -> None:
    """Begin a transaction in which no other migration can run."""
    if connection.dialect.name == "sqlite":
        # Else rebuilding a table would delete the rows that refer to it. The pragma has no effect
        # within a transaction.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another migration may take long
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


def is_described(name: str | None, _kind: str, _parents: object) -> bool:
    """Tell whether the models describe a table or index: the texts to search are kept in step."""
    return not (name or "").startswith("name_texts")


engine = context.config.attributes.get("engine", db.engine)
with engine.begin() as connection:
    begin_alone(connection)
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        render_as_batch=True,
        include_name=is_described,
        transactional_ddl=True,
    )
    context.run_migrations()
engine.dispose()
