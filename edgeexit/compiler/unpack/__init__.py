"""Takes exits apart that a model computes in one tensor, so that each exit needs only its own part of the network."""
