"""EdgeExit: compile, run, profile and recalibrate early-exit networks on edge devices."""

import logging
import os

__version__ = "0.1.0"

# Before anything imports it: ONNX Runtime 1.32 keeps a device identity and a database of its use, and means to send it
# home. A fleet's devices do neither unless somebody says so (ORT_DISABLE_TELEMETRY=0).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A library says nothing by itself: the application, or a command that serves, decides where its log goes.
logging.getLogger(__name__).addHandler(logging.NullHandler())
