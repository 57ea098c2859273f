"""Machines that follow profiles, and the rollouts to a share of them."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

TIME = sa.DateTime(timezone=True)


def upgrade():
    create_machines()
    create_rollouts()


def create_machines():
    profile = sa.ForeignKey("profiles.id", ondelete="CASCADE")
    op.create_table(
        "machines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("profile_id", sa.Integer, profile, nullable=False),
        sa.Column("place", sa.SmallInteger, nullable=False),
        sa.Column("generation", sa.Integer),
        sa.Column("store_path", sa.Text),
        sa.Column("reported", sa.String(16), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("token_id", sa.Integer, sa.ForeignKey("tokens.id")),
        sa.UniqueConstraint("name", name="one_machine_of_a_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("machines_by_profile", "machines", ["profile_id", "name"])


def create_rollouts():
    profile = sa.ForeignKey("profiles.id", ondelete="CASCADE")
    generation = sa.ForeignKey("generations.id", ondelete="SET NULL")
    op.create_table(
        "rollouts",
        sa.Column("profile_id", sa.Integer, profile, primary_key=True),
        sa.Column("percent", sa.SmallInteger, nullable=False),
        sa.Column("generation_id", sa.Integer, generation),
    )
    op.create_index("rollouts_by_generation", "rollouts", ["generation_id"])
