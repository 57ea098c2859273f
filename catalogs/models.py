"""The tables of catalogs: pins, and the indexes of what catalogs hold."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models import Model, UtcDateTime, utcnow

# Compared by bytes on both databases, so that attributes with the same beginning are a range.
BYTES = Text().with_variant(Text(collation="C"), "postgresql")

# Why a version can't be had which looks as if it could, until its derivation is evaluated.
IMPOSSIBLE = "evaluation_failed"


class IndexStatus(StrEnum):
    """How the index of a catalog stands; in all but the first, an older one serves searches."""

    CURRENT = "current"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STALE = "stale"  # the catalog has changed, and nothing is queued yet
    NONE = "none"


class Pin(Model):
    """A catalog that the host has added: a tarball, unpacked in the store, which never changes.

    Its place among the catalogs is after `anchor`, which is one of CATALOGS, `""` before all of
    them, or null after them; pins with the same anchor follow each other by `rank`.
    """

    __tablename__ = "pins"
    __table_args__ = (UniqueConstraint("name", name="one_pin_of_a_name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))  # of the unpacked tree, in Nix's base 32
    store_path: Mapped[str] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(String(64))
    dated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    added_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    anchor: Mapped[str | None] = mapped_column(Text)
    rank: Mapped[int]


class CatalogIndex(Model):
    """The index of a catalog in one state of it, which is what `signature` stands for.

    `todo` lists the sets of packages that are indexed, `""` being the catalog itself, each with
    how many of its attributes are done: an attempt goes on where the one before it ended.
    """

    __tablename__ = "catalog_indexes"
    __table_args__ = (
        UniqueConstraint("catalog", "signature", name="one_index_of_a_state"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    catalog: Mapped[str] = mapped_column(Text)
    signature: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    todo: Mapped[list[Any]] = mapped_column(JSON, default=list)
    # Attributes that can't be evaluated, and why.
    failures: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    # Of how many offers the derivation was evaluated, and when that was done for all.
    verified: Mapped[int] = mapped_column(default=0)
    verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class IndexedName(Model):
    """A name that a client may ask for, and what all indexes say of it, for searches.

    `lower` is the name in lower case. `descriptions` has each description once, in lower case, one
    a line.
    """

    __tablename__ = "indexed_names"
    __table_args__ = (
        UniqueConstraint("name", name="one_row_of_a_name"),
        Index("indexed_names_by_lower", "lower", "name"),  # all that a search reads of most names
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(BYTES)
    lower: Mapped[str] = mapped_column(BYTES)
    descriptions: Mapped[str] = mapped_column(BYTES)


class IndexedOffer(Model):
    """A version that a catalog has under an attribute, as its index knows it.

    Its derivation was evaluated if there is a `drv_path`, or a `message`, which says why that is
    impossible. `store_path` is that of the main output, null where only a build tells it, and
    `outputs` names those to install, the main one first. None of these paths need be in the store.
    """

    __tablename__ = "indexed_offers"
    __table_args__ = (
        Index("indexed_offers_by_attr", "index_id", "attr"),
        Index("indexed_offers_by_name", "name_id", "index_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    index_id: Mapped[int] = mapped_column(ForeignKey("catalog_indexes.id", ondelete="CASCADE"))
    attr: Mapped[str] = mapped_column(BYTES)
    pname: Mapped[str] = mapped_column(BYTES)
    name_id: Mapped[int] = mapped_column(ForeignKey("indexed_names.id"))
    spelled: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(String(32))
    description: Mapped[str | None] = mapped_column(Text)
    homepage: Mapped[str | None] = mapped_column(Text)
    license: Mapped[str | None] = mapped_column(Text)
    message: Mapped[str | None] = mapped_column(Text)
    drv_path: Mapped[str | None] = mapped_column(Text)
    store_path: Mapped[str | None] = mapped_column(Text)
    outputs: Mapped[str | None] = mapped_column(Text)  # separated by spaces
