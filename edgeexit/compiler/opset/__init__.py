"""Rewrites graphs for older operator sets."""
