"""The calibrator service: stores the messages of a fleet, detects drift, refits policies and publishes them."""

from edgeexit_calibration.cohorts import CohortAddress
from edgeexit_calibration.command import BrokerError, send_command
from edgeexit_calibration.database import Database, DatabaseError, open_database
from edgeexit_calibration.metrics import (
    Disagreement,
    ExitMix,
    audit_watermark,
    audited_exit_mix,
    disagreement,
    exit_mix,
)
from edgeexit_calibration.register import RegistrationResult, register
from edgeexit_calibration.service import CalibratorService, ServiceConfig
from edgeexit_calibration.views import (
    CohortView,
    DeviceView,
    EventView,
    PolicyView,
    cohorts,
    devices,
    events,
    policy_history,
)

__all__ = [
    "BrokerError",
    "CalibratorService",
    "CohortAddress",
    "CohortView",
    "Database",
    "DatabaseError",
    "DeviceView",
    "Disagreement",
    "EventView",
    "ExitMix",
    "PolicyView",
    "RegistrationResult",
    "ServiceConfig",
    "audit_watermark",
    "audited_exit_mix",
    "cohorts",
    "devices",
    "disagreement",
    "events",
    "exit_mix",
    "open_database",
    "policy_history",
    "register",
    "send_command",
]
