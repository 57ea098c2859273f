"""The store path that an apply insists on, and the hash of the pin that a package came from."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade():
    op.add_column("applied_packages", sa.Column("store_path", sa.Text))
    op.add_column("packages", sa.Column("catalog_sha256", sa.String(64)))
