"""The profile's generations, and its changes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade():
    op.create_table(
        "generations",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("packages", sa.JSON, nullable=False),
    )
    generation = sa.ForeignKey("generations.number", ondelete="CASCADE")
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("generation", sa.Integer, generation, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("by", sa.String(100)),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_by_generation", "changes", ["generation", "id"])
