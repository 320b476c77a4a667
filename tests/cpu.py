"""What the processor of the test machine can do."""

import platform
from pathlib import Path

import pytest


def _multiplies_int8_exactly() -> bool:
    """Return False for x86 without VNNI, where ONNX Runtime's sums of int8 products saturate at 16 bits."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    cpu = Path("/proc/cpuinfo")
    return not cpu.exists() or "_vnni" in cpu.read_text()


EXACT_INT8 = pytest.mark.skipif(
    not _multiplies_int8_exactly(), reason="this processor has no VNNI, so int8 products saturate in ONNX Runtime"
)
"""For tests that compare int8 results with float results."""
