"""Converts the user's ONNX file to what the compiler processes: opset, batch, floats; and proves the result."""
