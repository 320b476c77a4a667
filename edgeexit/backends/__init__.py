"""The backends that run stages, one folder per runtime, and their registry."""
