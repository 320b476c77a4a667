"""What connects an agent to its fleet: sending, receiving, keys, identity and freshness."""
