"""From a multi-exit model to a bundle: export, split, readout, proof. The only home of torch and onnx."""

from edgeexit.compiler.compile import STEPS, compile_bundle
from edgeexit.compiler.export.source import load_labels

__all__ = ["STEPS", "compile_bundle", "load_labels"]
