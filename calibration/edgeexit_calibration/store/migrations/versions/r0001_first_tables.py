"""The first tables: devices, cohorts, reports, audits, policies and events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "cohort",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("cohort", sa.Text(), nullable=False),
        sa.Column("highest_unknown_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cohort")),
        sa.UniqueConstraint("fleet", "bundle", "cohort", name=op.f("uq_cohort_fleet_bundle_cohort")),
    )
    op.create_table(
        "device",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("shard", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.Column("last_seen", sa.DateTime(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("offered_key", sa.Text(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.Column("starts", sa.JSON(), nullable=False),
        sa.Column("clone_starts", sa.JSON(), nullable=False),
        sa.Column("clone_seen_at", sa.DateTime(), nullable=True),
        sa.Column("audited_samples", sa.BigInteger(), nullable=False),
        sa.Column("losses", sa.JSON(), nullable=False),
        sa.Column("losses_at", sa.DateTime(), nullable=True),
        sa.Column("drops", sa.JSON(), nullable=False),
        sa.Column("last_drop", sa.Text(), nullable=True),
        sa.Column("last_drop_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
        sa.UniqueConstraint("fleet", "shard", "device", name=op.f("uq_device_fleet_shard_device")),
    )
    op.create_table(
        "fleet",
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("drops", sa.JSON(), nullable=False),
        sa.Column("last_drop", sa.Text(), nullable=False),
        sa.Column("last_drop_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", name=op.f("pk_fleet")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_audit_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("device_id", "start", "sequence", name=op.f("uq_audit_device_id_start_sequence")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("time", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=True),
        sa.Column("device_id", sa.Integer(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_event_cohort_id")),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_event_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_cohort_id_id"), "event", ["cohort_id", "id"])
    op.create_index(op.f("ix_event_device_id_id"), "event", ["device_id", "id"])

    op.create_table(
        "policy_revision",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("published_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_policy_revision_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", "revision", name=op.f("pk_policy_revision")),
    )
    op.create_table(
        "profile",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_profile_device_id")),
        sa.PrimaryKeyConstraint("device_id", "bundle", name=op.f("pk_profile")),
    )
    op.create_table(
        "registration",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("exits", sa.JSON(), nullable=False),
        sa.Column("costs", sa.JSON(), nullable=False),
        sa.Column("cost_unit", sa.Text(), nullable=False),
        sa.Column("risk", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("bundle_policy", sa.Text(), nullable=False),
        sa.Column("registered_by", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(), nullable=False),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_registration_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", name=op.f("pk_registration")),
    )
    op.create_table(
        "report",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_report_cohort_id")),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_report_device_id")),
        sa.PrimaryKeyConstraint("device_id", "start", "revision", name=op.f("pk_report")),
    )
    op.create_index(op.f("ix_report_cohort_id"), "report", ["cohort_id"])

    op.create_table(
        "audited_sample",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("exits", sa.BigInteger(), nullable=False),
        sa.Column("exit", sa.BigInteger(), nullable=False),
        sa.Column("disagrees", sa.Boolean(), nullable=False),
        sa.Column("readouts", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"], name=op.f("fk_audited_sample_audit_id")),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_audited_sample_cohort_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audited_sample")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audited_sample_cohort_id_id"), "audited_sample", ["cohort_id", "id"])
