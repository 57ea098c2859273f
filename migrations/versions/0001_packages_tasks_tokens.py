"""Packages, tasks with their logs, and tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade():
    op.create_table(
        "packages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("catalog", sa.Text),
        sa.Column("attr", sa.Text),
        sa.Column("drv_path", sa.Text),
        sa.Column("store_path", sa.Text),
        sa.Column("store_paths", sa.JSON),
        sa.Column("closure_size", sa.BigInteger),
        sa.UniqueConstraint("name", "version", name="one_of_a_version"),
        sqlite_autoincrement=True,
    )
    op.create_index("packages_by_status", "packages", ["status", "id"])

    op.create_table(
        "tasks",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.Uuid, nullable=False, unique=True),
        sa.Column(
            "package_id",
            sa.Integer,
            sa.ForeignKey("packages.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("waiting", sa.Text),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("expected", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text),
        sa.Column("error_hint", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("lease_holder", sa.String(64)),
        sa.Column("lease_until", TIME),
        sqlite_autoincrement=True,
    )
    op.create_index("tasks_by_status", "tasks", ["status", "seq"])
    op.create_index("tasks_by_package", "tasks", ["package_id", "seq"])
    live = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "one_live_task",
        "tasks",
        ["package_id"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )

    op.create_table(
        "task_logs",
        sa.Column(
            "task_seq", sa.Integer, sa.ForeignKey("tasks.seq", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )

    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100)),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("first", sa.Boolean, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME),
        sa.Column("revoked_at", TIME),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_first_token",
        "tokens",
        ["first"],
        unique=True,
        sqlite_where=sa.text("first"),
        postgresql_where=sa.text("first"),
    )
