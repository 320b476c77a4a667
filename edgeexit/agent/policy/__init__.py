"""Which policy a device runs: what it accepts, stores, tries, reverts and returns to."""
