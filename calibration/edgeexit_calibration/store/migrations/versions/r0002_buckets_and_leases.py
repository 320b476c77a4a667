"""Counts in buckets of time instead of reports, totals of audits, leases; columns that make counts of devices cheap."""

from datetime import datetime, timezone

import sqlalchemy as sa
from alembic import op
from edgeexit_calibration.store.migrations.conversion_0002 import convert

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _create_tables()
    op.add_column("audited_sample", sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("cohort", sa.Column("claimed_revision", sa.BigInteger(), nullable=False, server_default="0"))
    # In SQL, because Alembic would copy the table on SQLite, and other tables refer to its rows.
    op.execute("ALTER TABLE device ADD COLUMN cohort_id INTEGER CONSTRAINT fk_device_cohort_id REFERENCES cohort (id)")
    op.add_column("device", sa.Column("revision", sa.BigInteger(), nullable=True))
    op.add_column("device", sa.Column("online", sa.Boolean(), nullable=True))
    op.add_column("device", sa.Column("troubles", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(
        op.f("ix_device_fleet_cohort_id_revision_online"), "device", ["fleet", "cohort_id", "revision", "online"]
    )
    in_trouble = sa.text("troubles <> 0")
    op.create_index(
        "ix_device_troubles", "device", ["fleet", "troubles"], sqlite_where=in_trouble, postgresql_where=in_trouble
    )
    op.create_index(op.f("ix_audited_sample_audit_id"), "audited_sample", ["audit_id"])
    op.create_index(op.f("ix_device_cohort_id_shard_device"), "device", ["cohort_id", "shard", "device"])
    op.create_index(op.f("ix_event_cohort_id_kind_id"), "event", ["cohort_id", "kind", "id"])
    of_device = sa.text("device_id IS NOT NULL")
    op.create_index("ix_event_of_devices", "event", ["id"], sqlite_where=of_device, postgresql_where=of_device)
    if op.get_context().dialect.name == "postgresql":  # names in the order of SQLite, and ranges of a prefix
        for name in ("fleet", "shard", "device"):
            op.execute(f'ALTER TABLE device ALTER COLUMN {name} TYPE text COLLATE "C"')
    convert(op.get_bind(), now=datetime.now(timezone.utc))
    op.drop_table("report")


def _create_tables() -> None:
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "maintenance",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_maintenance")),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "shard",
        sa.Column("fleet", name, nullable=False),
        sa.Column("shard", name, nullable=False),
        sa.Column("first_seen", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "shard", name=op.f("pk_shard")),
    )
    op.create_table(
        "audit_total",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("disagreeing", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_audit_total_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", "revision", "writer", name=op.f("pk_audit_total")),
    )
    op.create_table(
        "series",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=True),
        sa.Column("width_s", sa.BigInteger(), nullable=False),
        sa.Column("begin_s", sa.BigInteger(), nullable=False),
        sa.Column("base", sa.LargeBinary(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_series_cohort_id")),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_series_device_id")),
        sa.PrimaryKeyConstraint("device_id", "start", "revision", name=op.f("pk_series")),
        postgresql_with={"fillfactor": 60},
    )
    op.create_table(
        "device_bucket",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("width_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("begin_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cohort_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_device_bucket_cohort_id")),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_bucket_device_id")),
        sa.PrimaryKeyConstraint(
            "device_id", "width_s", "begin_s", "revision", "cohort_id", name=op.f("pk_device_bucket")
        ),
    )
    op.create_index(op.f("ix_device_bucket_width_s_begin_s"), "device_bucket", ["width_s", "begin_s"])
    op.create_table(
        "cohort_bucket",
        sa.Column("cohort_id", sa.Integer(), nullable=False),
        sa.Column("width_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("begin_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("counts", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("fk_cohort_bucket_cohort_id")),
        sa.PrimaryKeyConstraint("cohort_id", "width_s", "begin_s", "revision", "writer", name=op.f("pk_cohort_bucket")),
    )
    op.create_index(op.f("ix_cohort_bucket_width_s_begin_s"), "cohort_bucket", ["width_s", "begin_s"])
    op.create_index(op.f("ix_cohort_bucket_cohort_id_revision"), "cohort_bucket", ["cohort_id", "revision"])
