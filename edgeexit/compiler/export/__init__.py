"""Loads a torch module, an exported program or an ONNX file, and converts it to one normalised graph."""
