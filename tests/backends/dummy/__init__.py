"""A backend that is not in the package: it runs the stages with ONNX's reference evaluator."""
