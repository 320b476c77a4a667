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
    min_audits: int | None = None
    """Number of audits since the change that a refit waits for; null: twice the minimum that a certificate needs."""
    alpha: float = 0.001
    """While the risk is not exceeded, there are on average at least 1/alpha audits until a false alarm."""
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
