"""The selects that several routes share, built at import: building costs more than executing."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, String, bindparam, case, func, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from catalogs.models import CatalogIndex
from database import reading
from models import AnyRow, Package, PackageStatus, Task, Token, columns, db, utcnow
from profiles.models import Apply, Membership, Profile
from session_models import Session


class Joined(FunctionElement[str]):
    """The texts of a group, joined by commas.

    SQLAlchemy's own aggregate_strings is compiled at each execution, which takes 25 µs.
    """

    type = String()
    inherit_cache = True


@compiles(Joined)
def _joined(texts: Joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(texts.clauses, **options)}, ',')"


@compiles(Joined, "sqlite")
def _joined_by_sqlite(texts: Joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"group_concat({compiler.process(texts.clauses, **options)})"


def _packages() -> Select[Any]:
    """Select packages as clients see them, each with its latest task."""
    latest = (
        select(func.max(Task.seq))
        .where(Task.package_id == Package.id)
        .correlate(Package)
        .scalar_subquery()
    )
    names = (
        select(Joined(Profile.name))
        .join(Membership, Membership.profile_id == Profile.id)
        .where(Membership.package_id == Package.id)
        .correlate(Package)
        .scalar_subquery()
    )
    profiles = case((Package.status == PackageStatus.ACTIVATED, names))  # else there are none
    task = (
        Task.id.label("task_id"),
        Task.status.label("task_status"),
        Task.error_code,
        Task.error_message,
        Task.error_hint,
        Task.error_reason,
    )

    shown = *columns(Package, "store_paths"), *task, profiles.label("profiles")
    return select(*shown).outerjoin(Task, Task.seq == latest)


PACKAGES = _packages()
TASKS: Select[Any] = (
    select(*columns(Task), CatalogIndex.catalog, Profile.name.label("profile"))
    .outerjoin(CatalogIndex, CatalogIndex.id == Task.index_id)
    .outerjoin(Apply, Apply.task_seq == Task.seq)
    .outerjoin(Profile, Profile.id == func.coalesce(Apply.profile_id, Task.profile_id))
)

_PACKAGE = PACKAGES.where(Package.id == bindparam("package_id"))
_TASK = TASKS.where(Task.id == bindparam("task_id"))
_TASKS_BETWEEN = (
    TASKS.where(Task.id.between(bindparam("first"), bindparam("last")))
    .order_by(Task.id)
    .limit(bindparam("limit"))
)
LIVE_TOKENS = select(*columns(Token, "digest", "key_id", "first", "revoked_at")).where(
    Token.revoked_at.is_(None), Token.expires_at > bindparam("now")
)
_LIVE_TOKEN = LIVE_TOKENS.where(Token.digest == bindparam("digest"))
_SIGNED_IN_TOKEN = LIVE_TOKENS.join(Session, Session.token_id == Token.id).where(
    Session.digest == bindparam("digest"), Session.expires_at > bindparam("now")
)
_DEAD_TOKEN = (
    select(Token.id, Token.name, Token.revoked_at)
    .where(Token.digest.in_(bindparam("digests", expanding=True)))
    .limit(1)
)


def package_names(ids: Iterable[int | None]) -> dict[int, AnyRow]:
    """Return the names and versions of packages, by their ids."""
    wanted = {package_id for package_id in ids if package_id is not None}
    named = select(Package.id, Package.name, Package.version).where(Package.id.in_(wanted))
    return {row.id: row for row in db.session.execute(named)} if wanted else {}


def held_by(profile: str | None) -> list[ColumnElement[bool]]:
    """Return what selects the packages of a profile; nothing where None is asked for."""
    if profile is None:
        return []
    mine = select(Membership.package_id).join(Profile).where(Profile.name == profile)
    return [Package.id.in_(mine)]


def applied_to(profile: str | None) -> list[ColumnElement[bool]]:
    """Return what selects the tasks of a profile; nothing where None is asked for."""
    if profile is None:
        return []
    applies = select(Apply.task_seq).join(Profile).where(Profile.name == profile)
    one = select(Profile.id).where(Profile.name == profile).scalar_subquery()
    return [or_(Task.seq.in_(applies), Task.profile_id == one)]


def package(package_id: int) -> AnyRow | None:
    """Return a package with its latest task; None when there is none of this id."""
    return _row(_PACKAGE, package_id=package_id)


def task(task_id: UUID) -> AnyRow | None:
    """Return a task; None when there is none of this id."""
    return _row(_TASK, task_id=task_id)


def tasks_between(first: UUID, last: UUID, limit: int) -> Sequence[AnyRow]:
    """Return at most `limit` tasks whose ids are in this range, both ends included, by id."""
    with reading() as connection:
        values = {"first": first, "last": last, "limit": limit}
        return connection.execute(_TASKS_BETWEEN, values).all()


def live_token(digest: str) -> AnyRow | None:
    """Return the token with this digest; None when it is unknown, revoked or expired."""
    return _row(_LIVE_TOKEN, digest=digest, now=utcnow())


def signed_in_token(digest: str) -> AnyRow | None:
    """Return the token of the session with this digest; None when either has ended."""
    return _row(_SIGNED_IN_TOKEN, digest=digest, now=utcnow())


def dead_token(digests: Sequence[str]) -> AnyRow | None:
    """Return the token with one of these digests, be it revoked or expired; None for no such."""
    return _row(_DEAD_TOKEN, digests=digests)


def _row(statement: Select[*tuple[Any, ...]], **values: Any) -> AnyRow | None:
    """Execute without a session, which would add 30 µs to the two selects of GET package."""
    with reading() as connection:
        return connection.execute(statement, values).one_or_none()
