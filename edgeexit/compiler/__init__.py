"""Compiles a multi-exit model into a bundle: export, precision, split, readout, proof, write.

No other package imports torch or onnx, except the network of `edgeexit.quickstart`.
"""

from edgeexit.compiler.compile import STEPS, compile_bundle
from edgeexit.compiler.loading.source import load_class_names
from edgeexit.compiler.options import CompileOptions

__all__ = ["STEPS", "CompileOptions", "compile_bundle", "load_class_names"]
