"""Stages on ONNX Runtime."""
