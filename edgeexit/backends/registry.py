"""The registry of backends: every value that `runtime` may have in a target file. Importing it loads no runtime."""

from typing import Final

from edgeexit.backends.base import BackendTraits
from edgeexit.backends.onnxruntime.traits import ONNXRUNTIME
from edgeexit.backends.tensorrt.traits import TENSORRT, TENSORRT_RTX

BACKENDS: Final[dict[str, BackendTraits]] = {traits.name: traits for traits in (ONNXRUNTIME, TENSORRT, TENSORRT_RTX)}
