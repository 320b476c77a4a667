"""Run a bundle stage by stage, stopping by policy, and measure it."""
