"""The calibrator service: stores the messages of a fleet, detects drift, adapts policies and publishes them."""

from edgeexit_calibration.daemon.calibrator_service import CalibratorService
from edgeexit_calibration.daemon.service_config import ServiceConfig
from edgeexit_calibration.ingest.quotas import Quotas
from edgeexit_calibration.recalibrate.budget_state import BudgetState
from edgeexit_calibration.recalibrate.explanation import BolderPolicy, Explanation, ExplanationError, explain
from edgeexit_calibration.service.accept_revision import AcceptedRevision, RevisionError, accept_revision
from edgeexit_calibration.service.command import BrokerError, CommandError, send_command
from edgeexit_calibration.service.device_actions import (
    DeviceError,
    approve_device,
    clear_device_clone,
    revoke_device,
    set_device_aside,
    take_device_back,
)
from edgeexit_calibration.service.register import RegistrationResult, register
from edgeexit_calibration.service.set_bounds import CohortBounds, cohort_bounds, set_bounds
from edgeexit_calibration.store.backup import Backup, Restoration, back_up_database, restore_database
from edgeexit_calibration.store.cohorts import CohortAddress
from edgeexit_calibration.store.database import Database, DatabaseError, open_database
from edgeexit_calibration.store.due import due_maintenance
from edgeexit_calibration.store.maintenance import Maintenance, MaintenanceResult, maintain
from edgeexit_calibration.store.policy_bounds import BoundsError, PolicyBounds
from edgeexit_calibration.store.retention import Retention
from edgeexit_calibration.store.schema_state import SchemaState, migrate_database, schema_state
from edgeexit_calibration.store.troubles import Trouble, trouble_of
from edgeexit_calibration.store.vacuum import Sizes, vacuum_database
from edgeexit_calibration.views.attention import Attention
from edgeexit_calibration.views.cohort_views import CohortView, cohorts, find_cohorts
from edgeexit_calibration.views.device_filter import DeviceFilter
from edgeexit_calibration.views.device_views import DeviceView, FleetView, devices, fleets, iterate_devices
from edgeexit_calibration.views.field_costs import CohortCosts
from edgeexit_calibration.views.fleet_status import CalibratorStatus, CohortStatus, FleetSummary, status
from edgeexit_calibration.views.history import EventView, PolicyView, device_events, events, policy_history
from edgeexit_calibration.views.metrics import (
    Accuracy,
    Disagreement,
    ExitMix,
    audit_watermark,
    audited_exit_mix,
    disagreement,
    exit_mix,
)
from edgeexit_calibration.views.names import NameLookupError
from edgeexit_calibration.views.trend import Trend, TrendPoint, trend

__all__ = [
    "AcceptedRevision",
    "Accuracy",
    "Attention",
    "Backup",
    "BolderPolicy",
    "BoundsError",
    "BrokerError",
    "BudgetState",
    "CalibratorService",
    "CalibratorStatus",
    "CohortAddress",
    "CohortBounds",
    "CohortCosts",
    "CohortStatus",
    "CohortView",
    "CommandError",
    "Database",
    "DatabaseError",
    "DeviceError",
    "DeviceFilter",
    "DeviceView",
    "Disagreement",
    "EventView",
    "ExitMix",
    "Explanation",
    "ExplanationError",
    "FleetSummary",
    "FleetView",
    "Maintenance",
    "MaintenanceResult",
    "NameLookupError",
    "PolicyBounds",
    "PolicyView",
    "Quotas",
    "RegistrationResult",
    "Restoration",
    "Retention",
    "RevisionError",
    "SchemaState",
    "ServiceConfig",
    "Sizes",
    "Trend",
    "TrendPoint",
    "Trouble",
    "accept_revision",
    "approve_device",
    "audit_watermark",
    "audited_exit_mix",
    "back_up_database",
    "clear_device_clone",
    "cohort_bounds",
    "cohorts",
    "device_events",
    "devices",
    "disagreement",
    "due_maintenance",
    "events",
    "exit_mix",
    "explain",
    "find_cohorts",
    "fleets",
    "iterate_devices",
    "maintain",
    "migrate_database",
    "open_database",
    "policy_history",
    "register",
    "restore_database",
    "revoke_device",
    "schema_state",
    "send_command",
    "set_bounds",
    "set_device_aside",
    "status",
    "take_device_back",
    "trend",
    "trouble_of",
    "vacuum_database",
]
