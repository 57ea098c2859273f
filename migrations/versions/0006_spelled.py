"""How catalogs spell versions, why they refuse packages, and longer names."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade():
    op.add_column("packages", sa.Column("spelled", sa.Text))
    op.add_column("tasks", sa.Column("error_reason", sa.String(32)))
    if op.get_bind().dialect.name == "postgresql":  # SQLite enforces no length
        op.alter_column("packages", "name", type_=sa.String(128))
