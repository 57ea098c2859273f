"""Lookups: what requests read again and again, by statements that are built once.

They select columns of the tables, not of the models: no session is needed.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, func, select

from models import Package, Task, Token, db, utcnow
from statements import Statement

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
ONE_PACKAGE = Statement(ALL_PACKAGES.where(PACKAGES.id == bindparam("id")))
ALL_TASKS = select(Task.__table__)
ONE_TASK = Statement(ALL_TASKS.where(TASKS.id == bindparam("id")))
LIVE_TOKEN = Statement(
    select(TOKENS.id, TOKENS.name, TOKENS.scope, TOKENS.last_used_at).where(
        TOKENS.digest == bindparam("digest"),
        TOKENS.revoked_at.is_(None),
        TOKENS.expires_at > bindparam("now"),
    )
)


def package(package_id: int) -> Any:
    """Return a package's columns, with its latest task's; None if there is none."""
    return ONE_PACKAGE.first(db.engine, id=package_id)


def task(task_id: UUID) -> Any:
    """Return a task's columns; None if there is none."""
    return ONE_TASK.first(db.engine, id=task_id)


def live_token(digest: str) -> Any:
    """Return the token with this digest; None if it is revoked or has expired."""
    return LIVE_TOKEN.first(db.engine, digest=digest, now=utcnow())
