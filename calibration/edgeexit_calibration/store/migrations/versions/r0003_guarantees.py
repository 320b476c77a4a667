"""The state of the guarantee of each cohort; scores of audited samples whose policy reads all classes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "guarantee",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("last_sample", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_guarantee_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", name=op.f("pk_guarantee")),
    )
    op.add_column("audited_sample", sa.Column("scores", sa.LargeBinary(), nullable=True))
