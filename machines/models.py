"""The tables of machines that follow profiles, and of what is rolled out to a share of them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, SmallInteger, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models import Model, UtcDateTime, enum_of


class ReportedState(StrEnum):
    """What a machine says of itself: that it holds what it was offered, or could not take it."""

    CURRENT = "current"
    FAILED = "failed"


class MachineState(StrEnum):
    """How a machine stands, as the database tells at each read."""

    CURRENT = "current"  # it holds what it is offered, or is offered nothing
    BEHIND = "behind"  # it is offered something else than it holds
    FAILED = "failed"  # it has reported that it could not take what it was offered
    SILENT = "silent"  # it was not heard of for MACHINE_SILENT_SECONDS


class Machine(Model):
    """A machine that follows a profile, as it reported itself last."""

    __tablename__ = "machines"
    __table_args__ = (
        UniqueConstraint("name", name="one_machine_of_a_name"),
        Index("machines_by_profile", "profile_id", "name"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    profile_id: Mapped[int] = mapped_column(ForeignKey("profiles.id", ondelete="CASCADE"))
    # From 0 to 99: of a rollout to N percent, those below N are the share.
    place: Mapped[int] = mapped_column(SmallInteger)
    generation: Mapped[int | None]
    store_path: Mapped[str | None] = mapped_column(Text)
    reported: Mapped[ReportedState] = mapped_column(enum_of(ReportedState))
    error: Mapped[str | None] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Whether there is an event about its silence, until it is heard of again.
    is_silence_told: Mapped[bool] = mapped_column(default=False)
    # The token of scope sync that reports it; null until one does.
    token_id: Mapped[int | None] = mapped_column(ForeignKey("tokens.id"))


class Rollout(Model):
    """That a profile's newest generation goes to a share of its machines; else it goes to all."""

    __tablename__ = "rollouts"
    __table_args__ = (Index("rollouts_by_generation", "generation_id"),)

    profile_id: Mapped[int] = mapped_column(
        ForeignKey("profiles.id", ondelete="CASCADE"), primary_key=True
    )
    percent: Mapped[int] = mapped_column(SmallInteger)
    # What the rest is offered: what all were offered last; null where that was nothing, or is gone.
    generation_id: Mapped[int | None] = mapped_column(
        ForeignKey("generations.id", ondelete="SET NULL")
    )
