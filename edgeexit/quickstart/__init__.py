"""The whole loop on one machine, for a first look."""
