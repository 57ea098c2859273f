"""When each generation of a profile was published in the binary cache."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade():
    op.add_column("generations", sa.Column("published_at", sa.DateTime(timezone=True)))
