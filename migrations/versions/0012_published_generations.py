"""The binary cache: what was published and when, and the tasks that publish."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade():
    op.add_column("generations", sa.Column("published_at", sa.DateTime(timezone=True)))
    add_publishing_tasks()
    op.create_table(
        "publishing_totals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("paths", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
    )


def add_publishing_tasks():
    profile = sa.ForeignKey("profiles.id", name="profile_of_a_task", ondelete="CASCADE")
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.add_column(sa.Column("profile_id", sa.Integer, profile))
        tasks.add_column(sa.Column("waits", sa.Integer, nullable=False, server_default="0"))
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.alter_column("waits", existing_type=sa.Integer, server_default=None)
    live = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "one_live_publishing",
        "tasks",
        ["profile_id"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
