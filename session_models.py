"""The table of the dashboard's sessions."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, delete
from sqlalchemy.orm import Mapped, mapped_column

from models import NO_SYNC, Model, UtcDateTime, db, utcnow


class Session(Model):
    """A browser that is signed in with a token; it ends with the token, by its time, or before."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("sessions_by_token", "token_id"),
        Index("sessions_by_end", "expires_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    # The SHA-256 of what the cookie holds.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utcnow)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


def delete_ended() -> None:
    """Delete the sessions whose time is over."""
    ended = delete(Session).where(Session.expires_at <= utcnow())
    db.session.execute(ended, execution_options=NO_SYNC)
    db.session.commit()
