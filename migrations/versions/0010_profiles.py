"""Named profiles, what each holds, and generations of each."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

TIME = sa.DateTime(timezone=True)


def upgrade():
    create_profiles()
    create_memberships()
    give_generations_their_profile()
    create_applies()


def create_profiles():
    """Create the table of profiles with the one that there has been so far."""
    profiles = op.create_table(
        "profiles",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.UniqueConstraint("name", name="one_profile_of_a_name"),
        sqlite_autoincrement=True,
    )
    default = {"name": "default", "revision": 1, "changed_at": datetime.now(UTC)}
    op.get_bind().execute(profiles.insert().values(**default))


def create_memberships():
    profile = sa.ForeignKey("profiles.id", ondelete="CASCADE")
    package = sa.ForeignKey("packages.id", ondelete="CASCADE")
    op.create_table(
        "memberships",
        sa.Column("profile_id", sa.Integer, profile, primary_key=True),
        sa.Column("package_id", sa.Integer, package, primary_key=True),
    )
    op.create_index("memberships_by_package", "memberships", ["package_id"])
    op.execute(
        "INSERT INTO memberships (profile_id, package_id)"
        " SELECT profiles.id, packages.id FROM profiles, packages"
        " WHERE packages.status = 'activated'"
    )


def give_generations_their_profile():
    profile = sa.ForeignKey("profiles.id", name="profile_of_a_generation", ondelete="CASCADE")
    with op.batch_alter_table(
        "generations", table_kwargs={"sqlite_autoincrement": True}
    ) as generations:
        generations.add_column(sa.Column("profile_id", sa.Integer, profile))
        generations.drop_constraint("one_of_a_number", type_="unique")
    op.execute("UPDATE generations SET profile_id = (SELECT id FROM profiles)")
    with op.batch_alter_table(
        "generations", table_kwargs={"sqlite_autoincrement": True}
    ) as generations:
        generations.alter_column("profile_id", existing_type=sa.Integer, nullable=False)
        generations.create_unique_constraint("one_of_a_number", ["profile_id", "number"])


def create_applies():
    task = sa.ForeignKey("tasks.seq", ondelete="CASCADE")
    profile = sa.ForeignKey("profiles.id", ondelete="CASCADE")
    op.create_table(
        "applies",
        sa.Column("task_seq", sa.Integer, task, primary_key=True),
        sa.Column("profile_id", sa.Integer, profile, nullable=False),
        sa.Column("by", sa.String(100)),
        sa.Column("revision", sa.Integer),
    )
    op.create_index("applies_by_profile", "applies", ["profile_id"])
    apply = sa.ForeignKey("applies.task_seq", ondelete="CASCADE")
    package = sa.ForeignKey("packages.id", ondelete="CASCADE")
    op.create_table(
        "applied_packages",
        sa.Column("task_seq", sa.Integer, apply, primary_key=True),
        sa.Column("package_id", sa.Integer, package, primary_key=True),
    )
    op.create_index("applied_packages_by_package", "applied_packages", ["package_id"])
