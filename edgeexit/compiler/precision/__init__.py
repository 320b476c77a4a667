"""Converts a model to fp16 or int8, and measures the loss of accuracy."""
