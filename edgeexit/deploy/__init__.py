"""Deploy a bundle to a device over SSH: copy, verify, switch, check the agent's health, and roll back if it fails."""

from edgeexit.deploy.configuration import read_configuration
from edgeexit.deploy.deployment import deploy
from edgeexit.deploy.options import FOLDER, DeployOptions
from edgeexit.deploy.result import DeploymentResult, NotHealthyError
from edgeexit.deploy.rollback import RollbackResult, roll_back
from edgeexit.deploy.ssh import Address, ConnectionLostError
from edgeexit.deploy.status import DeviceStatus, device_status

__all__ = [
    "FOLDER",
    "Address",
    "ConnectionLostError",
    "DeployOptions",
    "DeploymentResult",
    "DeviceStatus",
    "NotHealthyError",
    "RollbackResult",
    "deploy",
    "device_status",
    "read_configuration",
    "roll_back",
]
