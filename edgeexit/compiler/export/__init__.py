"""Converts a loaded model to one normalised graph, with its inputs and samples."""
