"""The NVIDIA GPU of this machine: its identity, memory, streams and events."""
