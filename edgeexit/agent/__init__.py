"""The device's side of the fleet: inference that never waits for it, reports, audits, policies."""
