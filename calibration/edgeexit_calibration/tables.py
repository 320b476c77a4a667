"""The tables: devices, cohorts, what devices sent, and the policies and events of each cohort."""

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the moment as UTC without its zone."""
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the moment with its zone."""
        return None if value is None else value.replace(tzinfo=timezone.utc)


_LongId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself


class Base(DeclarativeBase):
    """All tables; constraints are named so that migrations can address them on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: Text,
        int: BigInteger,
        float: Double,
        bytes: LargeBinary,
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[float]: JSON,
    }


class Device(Base):
    """A device that has sent something."""

    __tablename__ = "device"
    __table_args__ = (UniqueConstraint("fleet", "shard", "device"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    fleet: Mapped[str]
    shard: Mapped[str]
    device: Mapped[str]
    state: Mapped[str | None]
    """JSON of the newest `messages.State`."""
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    """When it last told something new; a broker's replay of retained messages does not count."""


class Profile(Base):
    """The newest latency profile of a bundle on a device."""

    __tablename__ = "profile"

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), primary_key=True)
    bundle: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[str]
    """JSON of `latency.LatencyProfile`."""
    received_at: Mapped[datetime]


class Cohort(Base):
    """The devices of a fleet that share a bundle and a label; known from the first message or registration on."""

    __tablename__ = "cohort"
    __table_args__ = (UniqueConstraint("fleet", "bundle", "cohort"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    fleet: Mapped[str]
    bundle: Mapped[str]
    cohort: Mapped[str]
    foreign_revision: Mapped[int] = mapped_column(default=0)
    """The highest revision that a device runs and that this database did not give: an earlier one did, and was lost."""


class Registration(Base):
    """What somebody asked of a cohort's policy, and what a refit needs to know of the bundle."""

    __tablename__ = "registration"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    model: Mapped[str]
    exits: Mapped[list[str]]
    costs: Mapped[list[float]]
    """[K] cumulative, in `cost_unit`."""
    cost_unit: Mapped[str]
    """`ms` (measured) or `macs` (counted)."""
    risk: Mapped[float]
    delta: Mapped[float]
    shipped: Mapped[str]
    """JSON of the policy document in the bundle, as it was registered last."""
    who: Mapped[str]
    at: Mapped[datetime]


class PolicyRevision(Base):
    """A policy that holds or held for a cohort; the highest revision is the current one."""

    __tablename__ = "policy_revision"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    document: Mapped[str]
    """JSON of `policies.PolicyDocument`; signed anew, with the same bytes, whenever it is published."""
    reason: Mapped[str]
    who: Mapped[str]
    at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    """When it was first handed to the broker, which did not refuse it."""


class Report(Base):
    """The newest report of each (device, outbox, boot, revision): cumulative counters."""

    __tablename__ = "report"

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), primary_key=True)
    outbox: Mapped[str] = mapped_column(primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), index=True)
    sequence: Mapped[int]
    content: Mapped[str]
    """JSON of `messages.Report`."""
    received_at: Mapped[datetime]


class Audit(Base):
    """An audit message; its key makes samples count once."""

    __tablename__ = "audit"
    __table_args__ = (UniqueConstraint("device_id", "outbox", "sequence"),)

    id: Mapped[int] = mapped_column(_LongId, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"))
    outbox: Mapped[str]
    sequence: Mapped[int]
    boot: Mapped[int]
    received_at: Mapped[datetime]


class AuditedSample(Base):
    """A sample that was run to full depth; `id` is the order of arrival, which is the order of drift."""

    __tablename__ = "audited_sample"
    __table_args__ = (Index(None, "cohort_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_LongId, primary_key=True)
    audit_id: Mapped[int] = mapped_column(_LongId, ForeignKey("audit.id"))
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"))
    revision: Mapped[int]
    exits: Mapped[int]
    """K."""
    exit: Mapped[int]
    """Where the policy let it leave."""
    disagrees: Mapped[bool]
    """Whether the answer there differs from the final exit's."""
    readouts: Mapped[bytes]
    """[K, 4] little-endian float32."""
    label: Mapped[int | None]


class Event(Base):
    """The audit log: who did what, when."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "cohort_id", "id"),)

    id: Mapped[int] = mapped_column(_LongId, primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str]
    """`calibrator`, or the user."""
    what: Mapped[str]
    cohort_id: Mapped[int | None] = mapped_column(ForeignKey("cohort.id"))
    details: Mapped[dict[str, Any]]
