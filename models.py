"""The tables, and the changes of state that requests make; a worker's are in leases.py.

SQLite connections run in autocommit until the first INSERT, UPDATE or DELETE, which begins an
immediate transaction. Each statement thus sees what was last committed, as under PostgreSQL's
READ COMMITTED, and the same rule serves on both: what must not be raced is said in the WHERE of
the statement that writes it, never read first and written later.
"""

import sqlite3
import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    Enum,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    bindparam,
    case,
    delete,
    event,
    exists,
    false,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from statements import Statement

# what SQLAlchemy raises for a database that is away, busy for too long, full, or read-only
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)


class Base(DeclarativeBase):
    """The declarative base of all tables."""


db = SQLAlchemy(model_class=Base)
# flask-sqlalchemy makes its Model at run time, where a type checker can't see it
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


class PackageStatus(StrEnum):
    """How far a package has come."""

    CREATED = "created"
    DOWNLOADED = "downloaded"
    ACTIVATED = "activated"


class TaskStatus(StrEnum):
    """Where a task stands; a task that has ended never moves again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = (TaskStatus.QUEUED, TaskStatus.RUNNING)


class Scope(StrEnum):
    """What a token may do; each includes the ones before it."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Tell whether this scope allows what `other` allows."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@event.listens_for(Engine, "connect")
def obey_foreign_keys(connection: object, _record: object) -> None:
    """Have SQLite enforce foreign keys, which it does when asked on each connection."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA foreign_keys = ON")


def utcnow() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)


def soon(seconds: float) -> datetime:
    """Return the time `seconds` from now, aware, in UTC."""
    return utcnow() + timedelta(seconds=seconds)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite, which knows no time zones, keeps it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the value the zone that it was stored in."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _choice(kind: type[StrEnum]) -> Enum:
    return Enum(
        kind, native_enum=False, length=16, values_callable=lambda all_: [one.value for one in all_]
    )


class Package(Model):
    """A registered name and version, and what it was resolved to."""

    __tablename__ = "packages"
    __table_args__ = (
        UniqueConstraint("name", "version", name="one_of_a_version"),
        Index("packages_by_status", "status", "id"),
        {"sqlite_autoincrement": True},  # an id names GC roots: it must never be used again
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    version: Mapped[str] = mapped_column(String(64))
    status: Mapped[PackageStatus] = mapped_column(
        _choice(PackageStatus), default=PackageStatus.CREATED
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, onupdate=utcnow)
    catalog: Mapped[str | None] = mapped_column(Text)
    attr: Mapped[str | None] = mapped_column(Text)
    drv_path: Mapped[str | None] = mapped_column(Text)
    store_path: Mapped[str | None] = mapped_column(Text)
    store_paths: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    closure_size: Mapped[int | None] = mapped_column(BigInteger)

    @staticmethod
    def register(name: str, version: str) -> Any:
        """Add a package and return it as clients see it; None when there is one already."""
        try:
            return NEW_PACKAGE.write(db.engine, name=name, version=version, now=utcnow())
        except IntegrityError:
            return None

    def take(self, store_paths: list[str], closure_size: int) -> None:
        """Become downloaded, as these store paths, without a commit."""
        self.status = PackageStatus.DOWNLOADED
        self.store_path, self.store_paths = store_paths[0], store_paths
        self.closure_size = closure_size

    def lose(self) -> None:
        """Become created again, the store paths being gone, without a commit."""
        self.status = PackageStatus.CREATED
        self.store_path = self.store_paths = self.closure_size = None

    @staticmethod
    def forget(package_id: int) -> bool:
        """Delete a package and its tasks; False while it is activated or downloading."""
        live = exists().where(Task.package_id == Package.id, Task.status.in_(LIVE))
        deleted = db.session.execute(
            delete(Package)
            .where(Package.id == package_id, Package.status != PackageStatus.ACTIVATED, ~live)
            .returning(Package.id)
        ).all()
        db.session.commit()
        return bool(deleted)

    @staticmethod
    def follow_profile(active: Collection[int]) -> None:
        """Make `activated` exactly the packages with these ids, without a commit."""
        gone = update(Package).where(Package.status == PackageStatus.ACTIVATED)
        db.session.execute(
            gone.where(Package.id.not_in(active)).values(status=PackageStatus.DOWNLOADED)
        )
        come = update(Package).where(Package.status == PackageStatus.DOWNLOADED)
        db.session.execute(
            come.where(Package.id.in_(active)).values(status=PackageStatus.ACTIVATED)
        )


NEW_PACKAGE = Statement(
    insert(db.metadata.tables["packages"])
    .values(
        name=bindparam("name"),
        version=bindparam("version"),
        status=PackageStatus.CREATED,
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
    .returning(*Package.__table__.c, null().label("task_id"))
)


class Task(Model):
    """One requested download."""

    __tablename__ = "tasks"
    __table_args__ = (
        Index("tasks_by_status", "status", "seq"),
        Index("tasks_by_package", "package_id", "seq"),
        {"sqlite_autoincrement": True},  # paging goes by seq: a new task must come last
    )

    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(Uuid, unique=True, default=uuid.uuid4)
    package_id: Mapped[int] = mapped_column(ForeignKey("packages.id", ondelete="CASCADE"))
    status: Mapped[TaskStatus] = mapped_column(_choice(TaskStatus), default=TaskStatus.QUEUED)
    attempt: Mapped[int] = mapped_column(default=0)
    request_id: Mapped[str | None] = mapped_column(String(64))
    waiting: Mapped[str | None] = mapped_column(Text)
    done: Mapped[int] = mapped_column(default=0)
    expected: Mapped[int] = mapped_column(default=0)
    phase: Mapped[str | None] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_hint: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @staticmethod
    def queue(package_id: int, request_id: str | None = None) -> uuid.UUID | None:
        """Queue a download of a created package; None when one is live, or it isn't created."""
        task_id = uuid.uuid4()
        try:
            queued = NEW_TASK.write(
                db.engine,
                task_id=task_id,
                package_id=package_id,
                now=utcnow(),
                request_id=request_id,
            )
        except IntegrityError:
            return None
        return task_id if queued else None

    @staticmethod
    def request_cancel(task_id: uuid.UUID) -> bool:
        """Cancel the task at once when queued, ask its worker to when running; False if ended."""
        queued = Task.status == TaskStatus.QUEUED
        changed = db.session.execute(
            update(Task)
            .where(Task.id == task_id, Task.status.in_(LIVE))
            .values(
                cancel_requested=True,
                waiting=None,
                status=case((queued, TaskStatus.CANCELLED), else_=Task.status),
                finished_at=case((queued, utcnow()), else_=Task.finished_at),
            )
            .returning(Task.seq)
        ).all()
        db.session.commit()
        return bool(changed)


NEW_TASK = Statement(
    insert(db.metadata.tables["tasks"])
    .from_select(
        [
            "id",
            "package_id",
            "status",
            "attempt",
            "done",
            "expected",
            "created_at",
            "cancel_requested",
            "request_id",
        ],
        select(
            bindparam("task_id", type_=Uuid),
            Package.__table__.c.id,
            literal(TaskStatus.QUEUED, Task.status.type),
            literal(0),
            literal(0),
            literal(0),
            bindparam("now", type_=UtcDateTime),
            false(),
            bindparam("request_id", type_=String),
        ).where(
            Package.__table__.c.id == bindparam("package_id"),
            Package.__table__.c.status == PackageStatus.CREATED,
        ),
        include_defaults=False,
    )
    .returning(Task.__table__.c.seq)
)

Index(
    "one_live_task",
    Task.package_id,
    unique=True,
    sqlite_where=Task.status.in_(LIVE),
    postgresql_where=Task.status.in_(LIVE),
)


class TaskLog(Model):
    """A piece of one attempt's build log: the bytes from `start` on."""

    __tablename__ = "task_logs"

    task_seq: Mapped[int] = mapped_column(
        ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True
    )
    attempt: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Reason(StrEnum):
    """Why the profile changed."""

    ACTIVATE = "activate"
    REPLACE = "replace"
    DEACTIVATE = "deactivate"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    FOUND = "found"  # changed by somebody else, or repaired: found at a reconciliation


class Generation(Model):
    """A numbered version of the profile, with what it holds as it was then."""

    __tablename__ = "generations"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    packages: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class Change(Model):
    """A switch of the profile to a generation: when, why, and who asked for it."""

    __tablename__ = "changes"
    __table_args__ = (
        Index("changes_by_generation", "generation", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(ForeignKey("generations.number", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    reason: Mapped[Reason] = mapped_column(_choice(Reason))
    by: Mapped[str | None] = mapped_column(String(100))


class Token(Model):
    """An API token, of which only the keyed digest is kept; a revoked one stays on record."""

    __tablename__ = "tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(100))
    scope: Mapped[Scope] = mapped_column(_choice(Scope))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    first: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


# what makes two first requests for a token at once end with one
Index(
    "one_first_token",
    Token.first,
    unique=True,
    sqlite_where=Token.first,
    postgresql_where=Token.first,
)
