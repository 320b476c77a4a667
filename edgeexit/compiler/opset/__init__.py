"""Rewrites graphs for the older operator sets that targets take."""
