"""Lookups: what requests read again and again, by statements that are built once.

To build a statement takes SQLAlchemy several times as long as to execute it. They select columns
of the tables, not of the models, and each takes a connection for as long as it lasts: no session.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, bindparam, func, select

from models import Package, Task, Token, db, utcnow

PACKAGES = Package.__table__.c
TASKS = Task.__table__.c
TOKENS = Token.__table__.c


def _packages() -> Select[Any]:
    """Select packages as clients see them, each with its latest task."""
    latest = (
        select(func.max(TASKS.seq))
        .where(TASKS.package_id == PACKAGES.id)
        .correlate(Package.__table__)
        .scalar_subquery()
    )
    shown = [column for column in PACKAGES if column is not PACKAGES.store_paths]
    return select(
        *shown,
        TASKS.id.label("task_id"),
        TASKS.status.label("task_status"),
        TASKS.error_code,
        TASKS.error_message,
        TASKS.error_hint,
    ).outerjoin_from(Package.__table__, Task.__table__, TASKS.seq == latest)


ALL_PACKAGES = _packages()
ONE_PACKAGE = ALL_PACKAGES.where(PACKAGES.id == bindparam("id"))
ALL_TASKS = select(Task.__table__)
ONE_TASK = ALL_TASKS.where(TASKS.id == bindparam("id"))
LIVE_TOKEN = select(TOKENS.id, TOKENS.name, TOKENS.scope, TOKENS.last_used_at).where(
    TOKENS.digest == bindparam("digest"),
    TOKENS.revoked_at.is_(None),
    TOKENS.expires_at > bindparam("now"),
)


def package(package_id: int) -> Row[Any] | None:
    """Return a package, with its latest task."""
    return _first(ONE_PACKAGE, id=package_id)


def task(task_id: UUID) -> Row[Any] | None:
    """Return a task."""
    return _first(ONE_TASK, id=task_id)


def live_token(digest: str) -> Row[Any] | None:
    """Return the token with this digest, unless it is revoked or has expired."""
    return _first(LIVE_TOKEN, digest=digest, now=utcnow())


def _first(statement: Select[Any], **values: Any) -> Row[Any] | None:
    with db.engine.connect() as connection:
        return connection.execute(statement, values).first()
