"""A generation is its store path; its number can be given out again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TIME = sa.DateTime(timezone=True)


def upgrade():
    connection = op.get_bind()
    found = sa.MetaData()
    found.reflect(connection, only=["generations", "changes"])
    old = found.tables
    by_number = sa.select(old["generations"]).order_by("number")
    generations = connection.execute(by_number).mappings().all()
    changes = connection.execute(sa.select(old["changes"]).order_by("id")).mappings().all()

    op.drop_table("changes")
    op.drop_table("generations")
    new_generations, new_changes = create_tables()

    ids = {}
    for row in generations:
        new = new_generations.insert().values(**row).returning(new_generations.c.id)
        ids[row["number"]] = connection.scalar(new)
    if changes:
        rows = [
            {"generation_id": ids[row["generation"]]} | {name: row[name] for name in KEPT}
            for row in changes
        ]
        connection.execute(new_changes.insert(), rows)


KEPT = ("at", "reason", "by")


def create_tables():
    generations = op.create_table(
        "generations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("store_path", sa.Text),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("packages", sa.JSON, nullable=False),
        sa.UniqueConstraint("number", name="one_of_a_number"),
        sqlite_autoincrement=True,
    )
    generation = sa.ForeignKey("generations.id", ondelete="CASCADE")
    changes = op.create_table(
        "changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("generation_id", sa.Integer, generation, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("by", sa.String(100)),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_by_generation", "changes", ["generation_id", "id"])
    return generations, changes
