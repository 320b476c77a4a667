"""EdgeExit: compile, run, profile and recalibrate early-exit networks on edge devices."""

import logging
import os

__version__ = "0.1.0"

# Set before anything imports ONNX Runtime: its version 1.32 stores a device id and usage data, to send them to its
# vendor. EdgeExit disables this; ORT_DISABLE_TELEMETRY=0 in the environment enables it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A library does not configure logging: the application, or a command that serves, decides where its log goes.
logging.getLogger(__name__).addHandler(logging.NullHandler())
