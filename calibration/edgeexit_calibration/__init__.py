"""The calibrator service: stores the messages of a fleet, detects drift, refits policies and publishes them."""

from edgeexit_calibration.daemon.calibrator_service import CalibratorService
from edgeexit_calibration.daemon.service_config import ServiceConfig
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.service.command import BrokerError, CommandError, send_command
from edgeexit_calibration.service.device_actions import DeviceError, approve_device, clear_device_clone, revoke_device
from edgeexit_calibration.service.register import RegistrationResult, register
from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.database import Database, DatabaseError, open_database
from edgeexit_calibration.views.attention import Attention, needs_attention
from edgeexit_calibration.views.cohort_views import (
    CohortView,
    EventView,
    PolicyView,
    cohorts,
    device_events,
    events,
    policy_history,
)
from edgeexit_calibration.views.device_views import DeviceView, FleetView, devices, fleets
from edgeexit_calibration.views.metrics import (
    Disagreement,
    ExitMix,
    audit_watermark,
    audited_exit_mix,
    disagreement,
    exit_mix,
)

__all__ = [
    "Attention",
    "BrokerError",
    "CalibratorService",
    "CohortAddress",
    "CohortView",
    "CommandError",
    "Database",
    "DatabaseError",
    "DeviceError",
    "DeviceView",
    "Disagreement",
    "EventView",
    "ExitMix",
    "FleetView",
    "PolicyView",
    "Quotas",
    "RegistrationResult",
    "ServiceConfig",
    "approve_device",
    "audit_watermark",
    "audited_exit_mix",
    "clear_device_clone",
    "cohorts",
    "device_events",
    "devices",
    "disagreement",
    "events",
    "exit_mix",
    "fleets",
    "needs_attention",
    "open_database",
    "policy_history",
    "register",
    "revoke_device",
    "send_command",
]
