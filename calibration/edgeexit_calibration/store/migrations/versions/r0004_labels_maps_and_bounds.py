"""Budgets, costs and bounds of cohorts, which of their devices count, and audits of models that predict maps."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("registration", sa.Column("task", sa.Text(), nullable=False, server_default="classification"))
    op.add_column("audited_sample", sa.Column("differing", sa.LargeBinary(), nullable=True))
    op.add_column("audit_total", sa.Column("loss", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE audit_total SET loss = disagreeing")
    op.add_column("registration", sa.Column("budget_ms", sa.Double(), nullable=True))
    op.add_column("registration", sa.Column("field_costs", sa.JSON(), nullable=True))
    op.add_column("registration", sa.Column("field_devices", sa.BigInteger(), nullable=True))
    for name, kind in (("set_aside_at", sa.DateTime()), ("set_aside_by", sa.Text()), ("comparison", sa.JSON())):
        op.add_column("device", sa.Column(name, kind, nullable=True))
    op.add_column("device", sa.Column("decided_cohort_id", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_device_decided_cohort_id",
        "device",
        ["decided_cohort_id"],
        sqlite_where=sa.text("decided_cohort_id IS NOT NULL"),
        postgresql_where=sa.text("decided_cohort_id IS NOT NULL"),
    )
    loss = sa.Column("loss", sa.Text(), nullable=False, server_default="disagreement")
    op.add_column("registration", loss)
    for name in ("labelled", "correct", "final_correct"):
        op.add_column("audit_total", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(
        "ix_audited_sample_labelled",
        "audited_sample",
        ["cohort_id", "id"],
        sqlite_where=sa.text("label IS NOT NULL"),
        postgresql_where=sa.text("label IS NOT NULL"),
    )
    op.create_table(
        "policy_bounds",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.Column("min_final_exits", sa.Double(), nullable=False),
        sa.Column("max_changes_per_day", sa.BigInteger(), nullable=True),
        sa.Column("min_gain", sa.Double(), nullable=True),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_policy_bounds_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", name=op.f("pk_policy_bounds")),
    )
    op.create_index(op.f("ix_profile_bundle_received_at"), "profile", ["bundle", "received_at"])
