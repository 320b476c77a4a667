"""Stage backends: one folder each, with its traits, and the registry of all."""
