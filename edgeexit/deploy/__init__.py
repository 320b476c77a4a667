"""Deploy a bundle to a device over SSH: copied, verified, switched to at once, watched, and rolled back by itself."""

from edgeexit.deploy.configuration import read_configuration
from edgeexit.deploy.deployment import FOLDER, DeployRequest, deploy
from edgeexit.deploy.outcome import DeploymentOutcome, Listener, NotHealthyError
from edgeexit.deploy.rollback import DeviceStatus, RolledBack, device_status, roll_back
from edgeexit.deploy.ssh import Address, ConnectionLostError

__all__ = [
    "FOLDER",
    "Address",
    "ConnectionLostError",
    "DeployRequest",
    "DeploymentOutcome",
    "DeviceStatus",
    "Listener",
    "NotHealthyError",
    "RolledBack",
    "deploy",
    "device_status",
    "read_configuration",
    "roll_back",
]
