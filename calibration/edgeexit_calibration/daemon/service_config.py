"""Options of the calibrator service."""

from pathlib import Path
from typing import Annotated

import msgspec

from edgeexit.policies.document import Name
from edgeexit.wire import BrokerConfig
from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.store.leases import TTL_S
from edgeexit_calibration.store.retention import Retention


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the calibrator service."""

    fleet: Name
    broker: BrokerConfig = BrokerConfig()
    check_interval_s: float = 5.0
    """Time between two checks of all cohorts; each check also publishes new revisions."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    """Maximum probability of a false alarm of a cohort between two changes of its data."""
    tolerated_devices: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Devices of a cohort that may forge audits; in a small cohort, only as many as are less than half of it."""
    max_changes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 24
    """Maximum number of bolder policies of a cohort in a day. Stepping back after an alarm has no limit."""
    audit_fraction_after_alarm: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Fraction of the samples that devices audit after an alarm; 0: not more than usual; null: five times as much."""
    heartbeat_interval_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """Time between two heartbeats of a cohort; far below `confirm_within_s` of the devices."""
    enrolment: Enrolment = "open"
    """`open`: the first key that signs audits of a device is pinned. `approve`: a user approves every key."""
    quotas: Quotas = Quotas()
    """What each device may send."""
    key_set: Path | None = None
    """File of the fleet's signed key sets, which are published; null: none."""
    retention: Retention = Retention()
    """How long the database keeps what."""
    take_over: bool = False
    """Serve the fleet although a calibrator with another database does; that one ends."""
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = TTL_S
    """A process that has not renewed its leases for this long is replaced by another one (PostgreSQL)."""
    max_unstored: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 4000
    """Maximum number of messages that the broker sends before the first of them is stored."""
    max_unstored_bytes: Annotated[int, msgspec.Meta(ge=1)] = 32 * 1024 * 1024
    """Maximum total size of the messages that wait to be stored."""
