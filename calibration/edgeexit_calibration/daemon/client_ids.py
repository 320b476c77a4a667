"""Client ids at the broker: they contain the installation, so that two databases never share a session."""

import secrets


def consumer_client_id(fleet: str, installation: str, shard: str | None) -> str:
    """Return the id of the durable session that receives a shard; None: all shards."""
    name = f"edgeexit-calibrator-{fleet}-{installation}"
    return name if shard is None else f"{name}-{shard}"


def leader_client_id(fleet: str, installation: str) -> str:
    """Return the id of the session that publishes. No shard leads to the same id: names contain no dot."""
    return f"{consumer_client_id(fleet, installation, None)}.leader"


def probe_client_id(fleet: str, installation: str) -> str:
    """Return the id of the short session of a process that starts; processes may start at the same time."""
    return f"{consumer_client_id(fleet, installation, None)}.{secrets.token_hex(4)}"
