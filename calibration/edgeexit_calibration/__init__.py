"""The cloud side: stores what the fleet reports, watches drift, refits and publishes policies."""
