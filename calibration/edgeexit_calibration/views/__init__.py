"""Read-only views of devices, cohorts and their metrics."""
