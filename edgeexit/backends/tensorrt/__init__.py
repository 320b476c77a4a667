"""Stages as TensorRT plans: built, cached and run."""
