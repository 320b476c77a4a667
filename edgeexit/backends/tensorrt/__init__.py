"""The TensorRT backends: build, cache and run stages as TensorRT plans."""
