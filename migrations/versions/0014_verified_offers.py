"""Of what an index offers, the derivation, or why it can't be had; how far that is verified.

Also an index that has all that a search reads of the names in a range: in PostgreSQL, to read 6,000
of 17,000 names from their table took ten times as long.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade():
    for name in ("message", "drv_path", "store_path", "outputs"):
        op.add_column("indexed_offers", sa.Column(name, sa.Text))
    verified = sa.Column("verified", sa.Integer, nullable=False, server_default="0")
    op.add_column("catalog_indexes", verified)
    op.add_column("catalog_indexes", sa.Column("verified_at", sa.DateTime(timezone=True)))
    op.create_index("tasks_by_index", "tasks", ["index_id", "seq"])
    op.drop_index("indexed_names_by_lower", "indexed_names")
    op.create_index("indexed_names_by_lower", "indexed_names", ["lower", "name"])
