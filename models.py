"""The tables, and the changes of a package's state; those of a task's are in leases.py.

A SQLite connection is in autocommit mode until its first INSERT, UPDATE or DELETE, which begins an
immediate transaction. So each statement sees what was last committed, as under PostgreSQL's READ
COMMITTED, and one rule serves both databases: a condition that must not be raced stands in the
WHERE of the statement that writes, and is never read first and written later.
"""

import importlib
import secrets
import sqlite3
import time
import uuid
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
    Row,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    event,
    inspect,
)
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# What SQLAlchemy raises for a database that is down, busy for too long, full or read-only.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)

# How long a statement waits for another transaction's lock: past it the database counts as away.
LOCK_SECONDS = 30  # for a lock of the database: on SQLite first for the turn, then for the lock

LAST_MILLISECOND = 253_402_300_799_000  # of the year 9999, in which Python's time ends

AnyRow = Row[*tuple[Any, ...]]


class Base(DeclarativeBase):
    """The declarative base of all tables."""


db = SQLAlchemy(model_class=Base)
# Flask-SQLAlchemy makes db.Model at run time, where a type checker can't see it.
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model

# The ORM would otherwise look through the session's objects after each statement.
NO_SYNC = {"synchronize_session": False}


class PackageStatus(StrEnum):
    """How far a package has come."""

    CREATED = "created"
    DOWNLOADED = "downloaded"
    ACTIVATED = "activated"


class TaskStatus(StrEnum):
    """Where a task stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = (TaskStatus.QUEUED, TaskStatus.RUNNING)


class TaskKind(StrEnum):
    """What a task does, and to what: a package, a catalog, or, the last two, a profile."""

    DOWNLOAD = "download"
    INDEX = "index"
    VERIFY = "verify"
    APPLY = "apply"
    PUBLISH = "publish"


class Scope(StrEnum):
    """What a token may do. `sync`, a machine's, is beside `read`; the others include both."""

    SYNC = "sync"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: "Scope") -> bool:
        """Tell whether this scope allows what `other` allows."""
        order = list(Scope)
        is_below = order.index(self) >= order.index(other)
        return is_below and (self, other) != (Scope.READ, Scope.SYNC)


@event.listens_for(Engine, "connect")
def set_up_connection(connection: Any, _record: object) -> None:
    """Have SQLite enforce foreign keys, and PostgreSQL bound the wait for a lock."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA foreign_keys = ON")
    else:
        connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        connection.commit()


def cause(error: Exception) -> object:
    """Return the driver's own error behind one of SQLAlchemy's; it says more in one line."""
    return getattr(error, "orig", error)


def insert_or_ignore(model: type[Base]) -> Any:
    """Return an INSERT that does nothing, and returns no row, where a unique constraint forbids it.

    Whatever else is wrong with the row is still an error.
    """
    return upsert(model).on_conflict_do_nothing()


def upsert(model: type[Base]) -> Any:
    """Return an INSERT that can say what to do about a row that is there already."""
    # Only the one in use: to import both takes 3 MiB more.
    dialect = importlib.import_module(f"sqlalchemy.dialects.{db.engine.dialect.name}")
    return dialect.insert(model)


def columns(model: type[Base], *omitted: str) -> list[Any]:
    """Return the columns of a model, but for the omitted ones, for a select that returns rows."""
    return [column for column in inspect(model).columns if column.key not in omitted]


def utcnow() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)


def soon(seconds: float) -> datetime:
    """Return the time `seconds` from now, aware, in UTC."""
    return utcnow() + timedelta(seconds=seconds)


def new_task_id() -> uuid.UUID:
    """Return an id that tells when it was made: a UUID of version 7 (RFC 9562, section 5.7).

    The 12 bits after the version are a fraction of the millisecond (section 6.2).
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    high = milliseconds << 16 | 0x7000 | fraction
    return uuid.UUID(int=high << 64 | 0b10 << 62 | secrets.randbits(62))


def made_at(task_id: uuid.UUID) -> datetime | None:
    """Return when an id was made; None for one that doesn't tell, as those of earlier versions."""
    milliseconds, fraction = task_id.int >> 80, (task_id.int >> 64 & 0xFFF) / 4096
    if task_id.version != 7 or milliseconds > LAST_MILLISECOND:
        return None
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds + fraction)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC; SQLite, which knows no time zones, keeps it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the value the zone that it was stored in."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def enum_of(kind: type[StrEnum]) -> Enum:
    """Return the type of a column that holds the values of an enumeration."""
    return Enum(
        kind, native_enum=False, length=16, values_callable=lambda all_: [one.value for one in all_]
    )


class Package(Model):
    """A registered name and version, and what it was resolved to."""

    __tablename__ = "packages"
    __table_args__ = (
        UniqueConstraint("name", "version", name="one_of_a_version"),
        Index("packages_by_status", "status", "id"),
        {"sqlite_autoincrement": True},  # GC roots are named by id: an id must never be reused
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    # SQLite enforces no length, and can change none.
    name: Mapped[str] = mapped_column(String(128).with_variant(String(50), "sqlite"))
    version: Mapped[str] = mapped_column(String(64))
    status: Mapped[PackageStatus] = mapped_column(
        enum_of(PackageStatus), default=PackageStatus.CREATED
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow, onupdate=utcnow)
    catalog: Mapped[str | None] = mapped_column(Text)
    # Of a pin, which may be another one by now: that of its content when the package was found.
    catalog_sha256: Mapped[str | None] = mapped_column(String(64))
    attr: Mapped[str | None] = mapped_column(Text)
    spelled: Mapped[str | None] = mapped_column(Text)
    drv_path: Mapped[str | None] = mapped_column(Text)
    store_path: Mapped[str | None] = mapped_column(Text)
    store_paths: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    closure_size: Mapped[int | None] = mapped_column(BigInteger)

    def set_downloaded(self, store_paths: list[str], closure_size: int) -> None:
        """Become downloaded with these store paths, the main one first; without a commit."""
        self.status = PackageStatus.DOWNLOADED
        self.store_path, self.store_paths = store_paths[0], store_paths
        self.closure_size = closure_size

    def set_created(self) -> None:
        """Become created again, the store paths being gone; without a commit."""
        self.status = PackageStatus.CREATED
        self.store_path = self.store_paths = self.closure_size = None


class Task(Model):
    """A download, work on a catalog's index, an apply to a profile, or the publishing of it."""

    __tablename__ = "tasks"
    __table_args__ = (
        Index("tasks_by_status", "status", "seq"),
        Index("tasks_by_package", "package_id", "seq"),
        Index("tasks_by_index", "index_id", "seq"),
        {"sqlite_autoincrement": True},  # lists are paged by seq: a new task must come last
    )

    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(Uuid, unique=True, default=new_task_id)
    kind: Mapped[TaskKind] = mapped_column(enum_of(TaskKind), default=TaskKind.DOWNLOAD)
    # Of a download; of the indexing of a catalog, and of the verification of that.
    package_id: Mapped[int | None] = mapped_column(ForeignKey("packages.id", ondelete="CASCADE"))
    index_id: Mapped[int | None] = mapped_column(
        ForeignKey("catalog_indexes.id", ondelete="CASCADE")
    )
    # Of a publishing; that of an apply is in its Apply.
    profile_id: Mapped[int | None] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    status: Mapped[TaskStatus] = mapped_column(enum_of(TaskStatus), default=TaskStatus.QUEUED)
    attempt: Mapped[int] = mapped_column(default=0)
    request_id: Mapped[str | None] = mapped_column(String(64))
    # Who asked for it, and who for its end before it was done: an event_log.Actor each.
    by: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    cancelled_by: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    waiting: Mapped[str | None] = mapped_column(Text)
    # How often it went back to the queue because of the cache.
    waits: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    expected: Mapped[int] = mapped_column(default=0)
    phase: Mapped[str | None] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_hint: Mapped[str | None] = mapped_column(Text)
    error_reason: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    # Of a queued task: the time of its next attempt.
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


# To name PostgreSQL's dialect here would load it, which takes 3 MiB. Nothing but migrations makes
# the tables, and they have the same conditions for both databases.
Index(
    "one_live_task",
    Task.package_id,
    unique=True,
    sqlite_where=Task.status.in_(LIVE),
)


Index(
    "one_live_task_of_an_index",
    Task.index_id,
    unique=True,
    sqlite_where=Task.status.in_(LIVE),
)


Index(
    "one_live_publishing",
    Task.profile_id,
    unique=True,
    sqlite_where=Task.status.in_(LIVE),
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


class Token(Model):
    """An API token, of which only the keyed digest is kept; a revoked one stays on record."""

    __tablename__ = "tokens"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(100))
    scope: Mapped[Scope] = mapped_column(enum_of(Scope))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    # Which key that is made with; null where an earlier version made it.
    key_id: Mapped[str | None] = mapped_column(String(16))
    first: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


# Of several requests for the first token at once, one succeeds.
Index(
    "one_first_token",
    Token.first,
    unique=True,
    sqlite_where=Token.first,
)
