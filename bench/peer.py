"""The reference implementation: five of pkgd's routes with FastAPI and async SQLAlchemy.

It is written as the documentation of both suggests. It uses a database of pkgd's schema, checks
pkgd's tokens, and returns the same fields, except for a task's progress. It has less to do than
pkgd: it counts no requests and throttles nobody.
"""

import enum
import hashlib
import hmac
import os
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, ForeignKey, Select, Uuid, event, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SECRET_KEY = os.environ["SECRET_KEY"].encode()

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['DB_PATH']}")
Session = async_sessionmaker(engine, expire_on_commit=False)


@event.listens_for(engine.sync_engine, "connect")
def obey_foreign_keys(connection, _record):
    """Have SQLite enforce foreign keys, as pkgd does."""
    connection.execute("PRAGMA foreign_keys = ON")


class Base(DeclarativeBase):
    """The declarative base of all tables."""


class PackageStatus(enum.StrEnum):
    """The status of a package."""

    CREATED = "created"
    DOWNLOADED = "downloaded"
    ACTIVATED = "activated"


def now() -> datetime:
    """Return the current time as stored in SQLite: naive, in UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


class Package(Base):
    """A registered name and version."""

    __tablename__ = "packages"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[str] = mapped_column(default=PackageStatus.CREATED.value)
    created_at: Mapped[datetime] = mapped_column(DateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=now)
    catalog: Mapped[str | None]
    attr: Mapped[str | None]
    drv_path: Mapped[str | None]
    store_path: Mapped[str | None]
    closure_size: Mapped[int | None]


class Task(Base):
    """One requested download."""

    __tablename__ = "tasks"

    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(Uuid, unique=True)
    package_id: Mapped[int] = mapped_column(ForeignKey("packages.id"))
    status: Mapped[str]
    attempt: Mapped[int]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Token(Base):
    """An API token; only its keyed digest is stored."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class PackageIn(BaseModel):
    """A package to register."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=2, max_length=50, pattern=r"^[A-Za-z_][A-Za-z0-9_+.-]*$")
    version: str = Field(max_length=64, pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$")


class LatestTask(BaseModel):
    """A package's latest task."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    status: str


class PackageOut(BaseModel):
    """A registered package."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    version: str
    status: PackageStatus
    created_at: datetime
    updated_at: datetime
    catalog: str | None
    attr: str | None
    drv_path: str | None
    store_path: str | None
    closure_size: int | None
    task: LatestTask | None = None


class TaskOut(BaseModel):
    """One requested download."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    package_id: int
    status: str
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


async def get_session() -> AsyncIterator[AsyncSession]:
    """Open a session for the request."""
    async with Session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
bearer = HTTPBearer()


async def get_token(
    session: SessionDep, given: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> Token:
    """Return the live token of the request; raise a 401 error without one."""
    digest = hmac.new(SECRET_KEY, given.credentials.encode(), hashlib.sha256).hexdigest()
    token = await session.scalar(select(Token).where(Token.digest == digest))
    if token is None or token.revoked_at is not None or token.expires_at < now():
        raise HTTPException(401, "a live token is needed")
    return token


def with_task() -> Select[tuple[Package, Task | None]]:
    """Select packages, each with its latest task."""
    latest = select(func.max(Task.seq)).where(Task.package_id == Package.id).correlate(Package)
    return select(Package, Task).outerjoin(Task, Task.seq == latest.scalar_subquery())


def shown(package: Package, task: Task | None) -> PackageOut:
    """Return a package with its latest task, as the response has it."""
    document = PackageOut.model_validate(package)
    document.task = LatestTask.model_validate(task) if task else None
    return document


app = FastAPI()
needs_token = [Depends(get_token)]


@app.get("/hello")
async def hello() -> dict[str, str]:
    """Return a greeting."""
    return {"message": "Welcome to Package API"}


@app.get("/api/v1/package/{package_id}", dependencies=needs_token)
async def show_package(package_id: int, session: SessionDep) -> PackageOut:
    """Show one package."""
    found = (await session.execute(with_task().where(Package.id == package_id))).one_or_none()
    if found is None:
        raise HTTPException(404, f"there is no package {package_id}")
    return shown(*found)


@app.get("/api/v1/packages", dependencies=needs_token)
async def list_packages(
    request: Request,
    response: Response,
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: int = 0,
) -> list[PackageOut]:
    """List packages, oldest first."""
    total = await session.scalar(select(func.count()).select_from(Package))
    wanted = with_task().where(Package.id > after).order_by(Package.id).limit(limit + 1)
    rows = (await session.execute(wanted)).all()
    response.headers["X-Total-Count"] = str(total)
    if len(rows) > limit:
        url = request.url.include_query_params(after=rows[limit - 1].Package.id)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return [shown(*row) for row in rows[:limit]]


@app.post("/api/v1/packages", status_code=201, dependencies=needs_token)
async def create_package(fields: PackageIn, session: SessionDep, response: Response) -> PackageOut:
    """Register a package."""
    package = Package(**fields.model_dump())
    session.add(package)
    try:
        await session.commit()
    except IntegrityError:
        detail = f"{fields.name} {fields.version} is registered already"
        raise HTTPException(409, detail) from None
    response.headers["Location"] = f"/api/v1/package/{package.id}"
    return PackageOut.model_validate(package)


@app.get("/api/v1/task/{task_id}", dependencies=needs_token)
async def show_task(task_id: uuid.UUID, session: SessionDep) -> TaskOut:
    """Show one task."""
    task = await session.scalar(select(Task).where(Task.id == task_id))
    if task is None:
        raise HTTPException(404, f"there is no task {task_id}")
    return TaskOut.model_validate(task)
