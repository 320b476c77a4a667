"""The GPU: what it is, its memory and its streams."""
