"""The budget of a cohort, and its costs as its own devices measured them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("registration", sa.Column("budget_ms", sa.Double(), nullable=True))
    op.add_column("registration", sa.Column("field_costs", sa.JSON(), nullable=True))
    op.add_column("registration", sa.Column("field_devices", sa.BigInteger(), nullable=True))
