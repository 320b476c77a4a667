"""The name of this machine, and the number of processor cores that this process may use."""

import os
import platform
from pathlib import Path


def machine_name() -> str:
    """Return the architecture and the processor model, e.g. `aarch64 Raspberry Pi 5 Model B Rev 1.0`."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor()
    return f"{platform.machine()} {model}".strip()


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
