"""The tables of profiles: which there are, what each holds, its generations, and their changes."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    delete,
    exists,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models import Model, Package, PackageStatus, UtcDateTime, db, enum_of, insert_or_ignore, utcnow

DEFAULT = "default"


class Reason(StrEnum):
    """Why a profile changed."""

    ACTIVATE = "activate"
    REPLACE = "replace"
    DEACTIVATE = "deactivate"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    APPLY = "apply"
    PROMOTE = "promote"
    FOUND = "found"  # changed by somebody else, or repaired: found at a reconciliation


class Profile(Model):
    """A named set of packages with generations; `default` always exists."""

    __tablename__ = "profiles"
    __table_args__ = (
        UniqueConstraint("name", name="one_profile_of_a_name"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(32))
    # Counts changes, and applies that were accepted; 0 only in the transaction that adds the row.
    revision: Mapped[int] = mapped_column(default=0)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)


class Membership(Model):
    """A package in a profile. A package is `activated` while it is in any."""

    __tablename__ = "memberships"
    __table_args__ = (Index("memberships_by_package", "package_id"),)

    profile_id: Mapped[int] = mapped_column(
        ForeignKey("profiles.id", ondelete="CASCADE"), primary_key=True
    )
    package_id: Mapped[int] = mapped_column(
        ForeignKey("packages.id", ondelete="CASCADE"), primary_key=True
    )

    @staticmethod
    def replace(profile_id: int, package_ids: Collection[int]) -> None:
        """Make a profile hold exactly these packages, without a commit."""
        others = delete(Membership).where(
            Membership.profile_id == profile_id, Membership.package_id.not_in(package_ids)
        )
        held = select(literal(profile_id), Package.id).where(Package.id.in_(package_ids))
        added = insert_or_ignore(Membership).from_select(["profile_id", "package_id"], held)
        db.session.execute(others)
        db.session.execute(added)
        Membership.settle()

    @staticmethod
    def settle() -> None:
        """Make `activated` exactly the packages that a profile holds, without a commit."""
        is_held = exists().where(Membership.package_id == Package.id)
        removed = update(Package).where(Package.status == PackageStatus.ACTIVATED, ~is_held)
        added = update(Package).where(Package.status == PackageStatus.DOWNLOADED, is_held)
        db.session.execute(removed.values(status=PackageStatus.DOWNLOADED))
        db.session.execute(added.values(status=PackageStatus.ACTIVATED))


class Generation(Model):
    """A numbered version of a profile, with what it holds as it was then.

    Nix gives out a number again once its link is gone: a row is true only while the link of its
    number leads to its store path. Rows of an earlier version have none until they are looked at.
    """

    __tablename__ = "generations"
    __table_args__ = (
        UniqueConstraint("profile_id", "number", name="one_of_a_number"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    profile_id: Mapped[int] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    number: Mapped[int]
    store_path: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    packages: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    # When the binary cache had it whole; null while it has not.
    published_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Change(Model):
    """A switch of a profile to a generation: when, why, and who asked for it."""

    __tablename__ = "changes"
    __table_args__ = (
        Index("changes_by_generation", "generation_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    generation_id: Mapped[int] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    reason: Mapped[Reason] = mapped_column(enum_of(Reason))
    by: Mapped[str | None] = mapped_column(String(100))


class Apply(Model):
    """What a task of that kind does: make a profile hold exactly a set of packages."""

    __tablename__ = "applies"
    __table_args__ = (Index("applies_by_profile", "profile_id"),)

    task_seq: Mapped[int] = mapped_column(
        ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True
    )
    profile_id: Mapped[int] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    by: Mapped[str | None] = mapped_column(String(100))
    # The profile's, of a request that said which state it was made for.
    revision: Mapped[int | None]


class AppliedPackage(Model):
    """A package in the set of an apply, and the store path that it must have, if any."""

    __tablename__ = "applied_packages"
    __table_args__ = (Index("applied_packages_by_package", "package_id"),)

    task_seq: Mapped[int] = mapped_column(
        ForeignKey("applies.task_seq", ondelete="CASCADE"), primary_key=True
    )
    package_id: Mapped[int] = mapped_column(
        ForeignKey("packages.id", ondelete="CASCADE"), primary_key=True
    )
    store_path: Mapped[str | None] = mapped_column(Text)
