"""Traces a torch module to an ONNX graph: the exporters of torch, and what they cannot translate."""
