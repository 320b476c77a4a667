"""The dummy backend, which is not in the package: it runs the stages with ONNX's reference evaluator."""
