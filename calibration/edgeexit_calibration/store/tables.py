"""The database tables: devices, their messages, cohorts and their policies, events, counts of dropped messages."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgeexit_calibration.store.table_base import LONG_ID, NAME, TableBase, partial_index


class FleetRow(TableBase):
    """What was dropped in a fleet and belongs to no known device."""

    __tablename__ = "fleet"

    fleet: Mapped[str] = mapped_column(primary_key=True)
    drops: Mapped[dict[str, Any]]
    """`drops.DropCause` -> number of messages."""
    last_drop: Mapped[str]
    last_drop_at: Mapped[datetime]


class DeviceRow(TableBase):
    """A device that has sent a message."""

    __tablename__ = "device"
    __table_args__ = (
        UniqueConstraint("fleet", "shard", "device"),
        Index(None, "fleet", "cohort_id", "revision", "online"),
        Index(None, "cohort_id", "shard", "device"),
        partial_index("ix_device_troubles", "fleet", "troubles", where="troubles <> 0"),
        partial_index("ix_device_decided_cohort_id", "decided_cohort_id", where="decided_cohort_id IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    fleet: Mapped[str] = mapped_column(NAME)
    shard: Mapped[str] = mapped_column(NAME)
    device: Mapped[str] = mapped_column(NAME)
    state: Mapped[str | None]
    """JSON of the newest `messages.State`; null before the first one."""
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    """Time of the last message with new content; a retained message that the broker repeats does not count."""
    key: Mapped[str | None]
    """Public identity key whose audits are stored; null before the enrolment."""
    offered_key: Mapped[str | None]
    """Another key with which the device signs and which waits for an approval."""
    revoked_at: Mapped[datetime | None]
    """When a user revoked the device; nothing that it sends under a number is stored."""
    starts: Mapped[dict[str, Any]]
    """Start -> highest uptime in its live states, the start that was seen last at the end; see `clones`."""
    clone_starts: Mapped[list[str]]
    """Two starts that ran at the same time, or nothing."""
    clone_seen_at: Mapped[datetime | None]
    """When two running agents with this name were last noticed."""
    set_aside_at: Mapped[datetime | None]
    """Since when its audits do not count; null: they do."""
    set_aside_by: Mapped[str | None]
    """Who decided last whether its audits count: `calibrator` or a user; null: nobody."""
    decided_cohort_id: Mapped[int | None]
    """The cohort that it was decided for. In another one, its audits count."""
    comparison: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """If the calibrator has found it: `audits`, their mean `loss`, and that of the `others`. Null: a user decided."""
    cohort_id: Mapped[int | None] = mapped_column(ForeignKey("cohort.id"))
    """Cohort in the newest state, for counts of devices; null before the first state."""
    revision: Mapped[int | None]
    """Active revision in the newest state."""
    online: Mapped[bool | None]
    """`online` of the newest state."""
    troubles: Mapped[int] = mapped_column(default=0)
    """Sum of `troubles.Trouble` flags: what may need attention. Other devices are not read to list it."""
    audited_samples: Mapped[int] = mapped_column(default=0)
    """Number of its audited samples, for the share that a device has in those of its cohort."""
    losses: Mapped[dict[str, Any]]
    """`messages.Losses` of the report that arrived last."""
    losses_at: Mapped[datetime | None]
    """When these numbers increased last."""
    drops: Mapped[dict[str, Any]]
    """`drops.DropCause` -> number of its messages that were not stored."""
    last_drop: Mapped[str | None]
    """Why the last of these was not stored."""
    last_drop_at: Mapped[datetime | None]

    def __init__(self, **values: Any) -> None:
        """Create a device of which nothing is known but the given values."""
        super().__init__(
            **{
                "starts": {},
                "clone_starts": [],
                "audited_samples": 0,
                "losses": {},
                "drops": {},
                "troubles": 0,
                **values,
            }
        )

    @property
    def name(self) -> str:
        """FLEET/SHARD/DEVICE."""
        return f"{self.fleet}/{self.shard}/{self.device}"


class ProfileRow(TableBase):
    """The newest latency profile of a bundle on a device."""

    __tablename__ = "profile"
    __table_args__ = (Index(None, "bundle", "received_at"),)

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), primary_key=True)
    bundle: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[str]
    """JSON of `latency.LatencyProfile`."""
    received_at: Mapped[datetime]


class CohortRow(TableBase):
    """The devices of a fleet that share a bundle and a label; the first message or registration creates the row."""

    __tablename__ = "cohort"
    __table_args__ = (UniqueConstraint("fleet", "bundle", "cohort"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    fleet: Mapped[str]
    bundle: Mapped[str]
    cohort: Mapped[str]
    highest_unknown_revision: Mapped[int] = mapped_column(default=0)
    """The highest revision that our key has signed and that this database did not issue, or 0.

    Such a revision comes from an earlier database that was lost or replaced by a backup.
    """
    claimed_revision: Mapped[int] = mapped_column(default=0)
    """The highest such revision that a device reports, without our signature, or 0. Only shown to the user."""


class RegistrationRow(TableBase):
    """The maximum risk that a user registered for a cohort, and the data of the bundle that a new policy needs."""

    __tablename__ = "registration"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    model: Mapped[str]
    task: Mapped[str] = mapped_column(default="classification")
    """Of the bundle: `classification`, or `segmentation` or `tagging`, whose predictions are maps."""
    exits: Mapped[list[str]]
    costs: Mapped[list[float]]
    """[K] cumulative, in `cost_unit`."""
    cost_unit: Mapped[str]
    """`ms` (measured) or `macs` (counted)."""
    risk: Mapped[float]
    delta: Mapped[float]
    loss: Mapped[str] = mapped_column(default="disagreement")
    """What `risk` bounds, a `policies.document.Loss`."""
    bundle_policy: Mapped[str]
    """JSON of the policy document in the bundle at the latest registration."""
    registered_by: Mapped[str]
    registered_at: Mapped[datetime]
    heartbeat: Mapped[int] = mapped_column(default=0)
    """Counter of the newest heartbeat."""
    budget_ms: Mapped[float | None]
    """Mean cost of a sample that the policy is to keep; null: it is to be as low as possible."""
    field_costs: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    """[K] cumulative, in ms, as the devices of the cohort measured them; null: `costs` are used."""
    field_devices: Mapped[int | None]
    """Number of devices whose profiles `field_costs` are from."""


class PolicyBoundsRow(TableBase):
    """The bounds that a user set on the policy of a cohort, see `policy_bounds`; without a row there are none."""

    __tablename__ = "policy_bounds"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    frozen: Mapped[bool]
    min_final_exits: Mapped[float]
    max_changes_per_day: Mapped[int | None]
    min_gain: Mapped[float | None]
    set_by: Mapped[str]
    set_at: Mapped[datetime]


class PolicyRevisionRow(TableBase):
    """A revision of a cohort's policy; the highest revision is the current one."""

    __tablename__ = "policy_revision"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    document: Mapped[str]
    """JSON of `policies.PolicyDocument`; every publication signs exactly these bytes."""
    reason: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    """When the broker first accepted it; null before."""


class GuaranteeRow(TableBase):
    """What the audits of a cohort have shown so far, so that another process continues there; see `guarantee`."""

    __tablename__ = "guarantee"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    revision: Mapped[int]
    """The current revision of the cohort when this was written."""
    last_sample: Mapped[int]
    """Id of the last audited sample that the state has seen."""
    state: Mapped[bytes]
    """The encoded state, see `guarantee_codec`."""
    updated_at: Mapped[datetime]


class SeriesRow(TableBase):
    """What de-duplication needs of a (device, start, revision): the newest cumulative counters and their number.

    It also contains the newest bucket of time of the series, which becomes a `DeviceBucketRow` when a later one begins:
    what was counted since `base`. So most reports change one row.
    """

    __tablename__ = "series"
    __table_args__ = {"postgresql_with": {"fillfactor": 60}}  # noqa: RUF012 - room for new versions on the same page

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), primary_key=True)
    start: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"))
    sequence: Mapped[int]
    counts: Mapped[bytes | None]
    """Packed cumulative counters, see `counts`. Null: expired; a later report of the series is acknowledged only."""
    width_s: Mapped[int]
    """Length of the newest bucket."""
    begin_s: Mapped[int]
    """Begin of the newest bucket."""
    base: Mapped[bytes | None]
    """Packed cumulative counters at the begin of the newest bucket. Null: zeros."""
    started_at: Mapped[float]
    """Estimated Unix time of the start of the agent in s: the lowest of arrival minus uptime."""
    received_at: Mapped[datetime]


class DeviceBucketRow(TableBase):
    """What one device counted in a span of time, under one revision; without the newest buckets, see `SeriesRow`."""

    __tablename__ = "device_bucket"
    __table_args__ = (Index(None, "width_s", "begin_s"),)

    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"), primary_key=True)
    width_s: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Length of the span: 900, 3600 or 86400 s."""
    begin_s: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Unix time of its begin, a multiple of `width_s`."""
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True, autoincrement=False)
    counts: Mapped[bytes]
    """Packed counts of this span, see `counts`."""


class CohortBucketRow(TableBase):
    """What the devices of a cohort that count (see `enrolment`) counted in a span of time, under one revision."""

    __tablename__ = "cohort_bucket"
    __table_args__ = (Index(None, "width_s", "begin_s"), Index(None, "cohort_id", "revision"))

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    width_s: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    begin_s: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    writer: Mapped[str] = mapped_column(primary_key=True)
    """Shard of the writing process ("" if it owns all), so that processes never wait for each other's rows."""
    counts: Mapped[bytes]


class AuditTotalRow(TableBase):
    """The number of a cohort's audited samples that count, under one revision."""

    __tablename__ = "audit_total"

    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    writer: Mapped[str] = mapped_column(primary_key=True)
    """As in `CohortBucketRow`."""
    samples: Mapped[int]
    disagreeing: Mapped[int]
    loss: Mapped[float]
    """Sum of the disagreement of the samples: 1 for each that disagrees; for maps, the fraction that differs."""
    labelled: Mapped[int] = mapped_column(default=0)
    """Samples whose true class is known; of them, those with a right prediction and with a right one at full depth:"""
    correct: Mapped[int] = mapped_column(default=0)
    final_correct: Mapped[int] = mapped_column(default=0)


class ShardRow(TableBase):
    """A shard of a fleet, as device topics name it."""

    __tablename__ = "shard"

    fleet: Mapped[str] = mapped_column(NAME, primary_key=True)
    shard: Mapped[str] = mapped_column(NAME, primary_key=True)
    first_seen: Mapped[datetime]


class AuditRow(TableBase):
    """An audit message; the unique key prevents that its samples are stored twice."""

    __tablename__ = "audit"
    __table_args__ = (UniqueConstraint("device_id", "start", "sequence"),)

    id: Mapped[int] = mapped_column(LONG_ID, primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("device.id"))
    start: Mapped[str]
    sequence: Mapped[int]
    received_at: Mapped[datetime]


class AuditedSampleRow(TableBase):
    """A sample that was run to full depth. `id` increases in the order of arrival, in which the watcher reads."""

    __tablename__ = "audited_sample"
    __table_args__ = (
        Index(None, "cohort_id", "id"),
        partial_index("ix_audited_sample_labelled", "cohort_id", "id", where="label IS NOT NULL"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(LONG_ID, primary_key=True)
    audit_id: Mapped[int] = mapped_column(LONG_ID, ForeignKey("audit.id"), index=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohort.id"))
    revision: Mapped[int]
    exits: Mapped[int]
    """K, the number of exits."""
    exit: Mapped[int]
    """Index of the exit that the policy chose."""
    disagrees: Mapped[bool]
    """Whether the prediction at `exit` differs from the final exit's prediction; for maps, anywhere."""
    readouts: Mapped[bytes]
    """[K, 4] little-endian float32."""
    scores: Mapped[bytes | None]
    """[K, 2] little-endian float32: score and prediction of a policy that reads all classes; null for all others."""
    differing: Mapped[bytes | None]
    """[K] little-endian float32: the fraction of the map of each exit that differs; null for a model without maps."""
    label: Mapped[int | None]
    counted: Mapped[bool] = mapped_column(default=True)
    """False: stored, but in no total, and no policy is based on it, because the device was a clone or not enrolled."""


class EventRow(TableBase):
    """An entry of the audit log: who did what, and when."""

    __tablename__ = "event"
    __table_args__ = (
        Index(None, "cohort_id", "id"),
        Index(None, "cohort_id", "kind", "id"),
        Index(None, "device_id", "id"),
        partial_index("ix_event_of_devices", "id", where="device_id IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(LONG_ID, primary_key=True)
    time: Mapped[datetime]
    actor: Mapped[str]
    """`calibrator`, or the name of a user."""
    kind: Mapped[str]
    """One of `cohorts.EventKind`."""
    cohort_id: Mapped[int | None] = mapped_column(ForeignKey("cohort.id"))
    device_id: Mapped[int | None] = mapped_column(ForeignKey("device.id"))
    details: Mapped[dict[str, Any]]
