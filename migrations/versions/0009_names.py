"""The names of indexes, each once, for searches; catalogs are indexed again."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

BYTES = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade():
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    drop_indexes(is_sqlite)
    create_names()
    create_offers()
    if is_sqlite:
        create_sqlite_search()
    else:
        create_postgresql_search()


def drop_indexes(is_sqlite):
    """Delete all indexes with their tasks: what they say of names can't be told apart by SQL."""
    if is_sqlite:
        op.execute("DROP TRIGGER offer_text_added")
        op.execute("DROP TRIGGER offer_text_removed")
        op.execute("DROP TABLE offer_texts")
    op.drop_table("indexed_offers")
    op.execute(
        "DELETE FROM task_logs WHERE task_seq IN (SELECT seq FROM tasks WHERE index_id IS NOT NULL)"
    )
    op.execute("DELETE FROM tasks WHERE index_id IS NOT NULL")
    op.execute("DELETE FROM catalog_indexes")


def create_names():
    op.create_table(
        "indexed_names",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", BYTES, nullable=False),
        sa.Column("lower", BYTES, nullable=False),
        sa.Column("descriptions", BYTES, nullable=False),
        sa.UniqueConstraint("name", name="one_row_of_a_name"),
    )
    op.create_index("indexed_names_by_lower", "indexed_names", ["lower"])


def create_offers():
    index = sa.ForeignKey("catalog_indexes.id", ondelete="CASCADE")
    op.create_table(
        "indexed_offers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("index_id", sa.Integer, index, nullable=False),
        sa.Column("attr", BYTES, nullable=False),
        sa.Column("pname", BYTES, nullable=False),
        sa.Column("name_id", sa.Integer, sa.ForeignKey("indexed_names.id"), nullable=False),
        sa.Column("spelled", sa.Text, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("description", sa.Text),
        sa.Column("homepage", sa.Text),
        sa.Column("license", sa.Text),
    )
    op.create_index("indexed_offers_by_attr", "indexed_offers", ["index_id", "attr"])
    op.create_index("indexed_offers_by_name", "indexed_offers", ["name_id", "index_id"])


def create_sqlite_search():
    """Index the texts by groups of three letters, and keep that index in step with the rows."""
    op.execute(
        "CREATE VIRTUAL TABLE name_texts USING fts5(lower, descriptions,"
        " content='indexed_names', content_rowid='id', tokenize='trigram')"
    )
    add = (
        "INSERT INTO name_texts(rowid, lower, descriptions)"
        " VALUES (new.id, new.lower, new.descriptions);"
    )
    remove = (
        "INSERT INTO name_texts(name_texts, rowid, lower, descriptions)"
        " VALUES ('delete', old.id, old.lower, old.descriptions);"
    )
    for name, event, change in (
        ("name_text_added", "INSERT", add),
        ("name_text_changed", "UPDATE OF descriptions", f"{remove} {add}"),
        ("name_text_removed", "DELETE", remove),
    ):
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON indexed_names BEGIN {change} END")


def create_postgresql_search():
    """Index the texts by groups of three letters, where the server has that extension."""
    has_extension = "SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'"
    if op.get_bind().scalar(sa.text(has_extension)) is not None:
        op.execute(
            "CREATE INDEX name_texts ON indexed_names"
            " USING gin (lower gin_trgm_ops, descriptions gin_trgm_ops)"
            " WITH (fastupdate = off)"  # else searches read what is not sorted in yet
        )
