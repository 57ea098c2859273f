"""The tables of webhooks, and of what was delivered to them."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from models import Model, UtcDateTime, utcnow


class WebhookState(StrEnum):
    """How a webhook stands."""

    ACTIVE = "active"
    FAILING = "failing"  # its last delivery failed, and is tried again
    DISABLED = "disabled"  # nothing is sent until it is enabled


class Outcome(StrEnum):
    """What became of a delivery."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Webhook(Model):
    """A URL that is told of events, and how far it has got: one event at a time, in their order."""

    __tablename__ = "webhooks"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    types: Mapped[list[Any]] = mapped_column(JSON)  # of events; empty: all
    secret: Mapped[str] = mapped_column(Text)  # in clear: it signs
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    # The last event that it has got, or that is none of its types.
    cursor: Mapped[int] = mapped_column(BigInteger)
    # Since its last success.
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    next_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Delivery(Model):
    """One attempt to tell a webhook of an event; the last ones of each are kept."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("deliveries_by_webhook", "webhook_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    # Null: a test.
    event_seq: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str] = mapped_column(String(32))
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    seconds: Mapped[float]
    status: Mapped[int | None] = mapped_column(SmallInteger)  # of HTTP
    error: Mapped[str | None] = mapped_column(Text)
    succeeded: Mapped[bool] = mapped_column(Boolean)


class DeliveryTotal(Model):
    """How many deliveries had an outcome; those of removed webhooks count, and tests don't."""

    __tablename__ = "delivery_totals"

    outcome: Mapped[str] = mapped_column(String(16), primary_key=True)
    deliveries: Mapped[int] = mapped_column(BigInteger)
