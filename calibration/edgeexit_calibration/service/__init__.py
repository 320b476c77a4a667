"""What people do: register cohorts, decide about devices, send commands."""
