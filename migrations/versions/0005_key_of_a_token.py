"""Which key a token's digest is made with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade():
    op.add_column("tokens", sa.Column("key_id", sa.String(16)))
