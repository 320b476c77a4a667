"""Stores the messages of devices: checks them, drops duplicates, and acknowledges them after the commit."""
