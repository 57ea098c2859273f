"""Events, the webhooks that are told of them, and the dashboard's sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

TIME = sa.DateTime(timezone=True)
BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade():
    op.add_column("tasks", sa.Column("by", sa.JSON))
    op.add_column("tasks", sa.Column("cancelled_by", sa.JSON))
    is_told = sa.Column("is_silence_told", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("machines", is_told)
    create_events()
    create_webhooks()
    create_sessions()


def create_events():
    op.create_table(
        "events",
        sa.Column("seq", BIG_ID, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("by", sa.JSON, nullable=False),
        sa.Column("origin", sa.String(64)),
        sa.Column("subject", sa.JSON, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("request_id", sa.String(64)),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_type", "events", ["type", "seq"])


def create_webhooks():
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("types", sa.JSON, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failing_since", TIME),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("disabled_at", TIME),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", TIME),
        sqlite_autoincrement=True,
    )
    webhook = sa.ForeignKey("webhooks.id", ondelete="CASCADE")
    op.create_table(
        "deliveries",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("webhook_id", sa.Integer, webhook, nullable=False),
        sa.Column("event_seq", sa.BigInteger),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("error", sa.Text),
        sa.Column("succeeded", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_by_webhook", "deliveries", ["webhook_id", "id"])
    op.create_table(
        "delivery_totals",
        sa.Column("outcome", sa.String(16), primary_key=True),
        sa.Column("deliveries", sa.BigInteger, nullable=False),
    )


def create_sessions():
    token = sa.ForeignKey("tokens.id", ondelete="CASCADE")
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("token_id", sa.Integer, token, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("sessions_by_token", "sessions", ["token_id"])
    op.create_index("sessions_by_end", "sessions", ["expires_at"])
