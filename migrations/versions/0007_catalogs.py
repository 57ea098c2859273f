"""Pins, indexes of catalogs, and tasks that index one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TIME = sa.DateTime(timezone=True)
BYTES = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade():
    create_pins()
    create_indexes()
    add_kinds_of_tasks()
    if op.get_bind().dialect.name == "sqlite":
        create_sqlite_search()
    else:
        create_postgresql_search()


def create_pins():
    op.create_table(
        "pins",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("store_path", sa.Text, nullable=False),
        sa.Column("revision", sa.String(64)),
        sa.Column("dated_at", TIME),
        sa.Column("added_at", TIME, nullable=False),
        sa.Column("anchor", sa.Text),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.UniqueConstraint("name", name="one_pin_of_a_name"),
    )


def create_indexes():
    op.create_table(
        "catalog_indexes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("catalog", sa.Text, nullable=False),
        sa.Column("signature", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("todo", sa.JSON, nullable=False),
        sa.Column("failures", sa.JSON, nullable=False),
        sa.UniqueConstraint("catalog", "signature", name="one_index_of_a_state"),
        sqlite_autoincrement=True,
    )
    index = sa.ForeignKey("catalog_indexes.id", ondelete="CASCADE")
    op.create_table(
        "indexed_offers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("index_id", sa.Integer, index, nullable=False),
        sa.Column("attr", BYTES, nullable=False),
        sa.Column("pname", BYTES, nullable=False),
        sa.Column("name", BYTES, nullable=False),
        sa.Column("spelled", sa.Text, nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("description", sa.Text),
        sa.Column("homepage", sa.Text),
        sa.Column("license", sa.Text),
    )
    op.create_index("indexed_offers_by_attr", "indexed_offers", ["index_id", "attr"])
    op.create_index("indexed_offers_by_name", "indexed_offers", ["index_id", "name"])


def add_kinds_of_tasks():
    index = sa.ForeignKey("catalog_indexes.id", name="index_of_a_task", ondelete="CASCADE")
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.alter_column("package_id", existing_type=sa.Integer, nullable=True)
        tasks.add_column(
            sa.Column("kind", sa.String(16), nullable=False, server_default="download")
        )
        tasks.add_column(sa.Column("index_id", sa.Integer, index))
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.alter_column("kind", existing_type=sa.String(16), server_default=None)
    live = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "one_live_task_of_an_index",
        "tasks",
        ["index_id"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )


def create_sqlite_search():
    """Index the texts by groups of three letters, and keep that index in step with the rows."""
    op.execute(
        "CREATE VIRTUAL TABLE offer_texts USING fts5(name, description,"
        " content='indexed_offers', content_rowid='id', tokenize='trigram')"
    )
    op.execute(
        "CREATE TRIGGER offer_text_added AFTER INSERT ON indexed_offers BEGIN"
        " INSERT INTO offer_texts(rowid, name, description)"
        " VALUES (new.id, new.name, new.description); END"
    )
    op.execute(
        "CREATE TRIGGER offer_text_removed AFTER DELETE ON indexed_offers BEGIN"
        " INSERT INTO offer_texts(offer_texts, rowid, name, description)"
        " VALUES ('delete', old.id, old.name, old.description); END"
    )


def create_postgresql_search():
    """Index the texts by groups of three letters, where the server has that extension for us."""
    connection = op.get_bind()
    is_there = "SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'"
    may_come = (
        "SELECT 1 FROM pg_available_extension_versions WHERE name = 'pg_trgm' AND trusted"
        " AND has_database_privilege(current_database(), 'CREATE')"
    )
    if connection.scalar(sa.text(is_there)) is None:
        if connection.scalar(sa.text(may_come)) is None:
            return
        op.execute("CREATE EXTENSION pg_trgm")
    op.execute(
        "CREATE INDEX offer_texts ON indexed_offers"
        " USING gin (name gin_trgm_ops, description gin_trgm_ops)"
    )
