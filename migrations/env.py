"""Run the migrations, all in one transaction, and one caller at a time."""

from alembic import context
from flask import current_app
from sqlalchemy import Connection

LOCK = 0x706B6764  # any number, as long as it is always this one


def begin_alone(connection: Connection) -> None:
    """Keep every other migration out until the transaction ends."""
    if connection.dialect.name == "sqlite":
        # a rebuilt table must not take the rows that refer to it along; only outside a transaction
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")


engine = current_app.extensions["migrate"].db.engine
with engine.begin() as connection:
    begin_alone(connection)
    context.configure(
        connection=connection,
        target_metadata=current_app.extensions["migrate"].db.metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    context.run_migrations()
engine.dispose()
