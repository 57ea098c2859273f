"""Which key a token's digest is made with."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade():
    op.add_column("tokens", sa.Column("key_id", sa.String(16)))
