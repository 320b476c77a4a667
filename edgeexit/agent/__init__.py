"""The device's side of the fleet: inference that never waits for it, reports, audits, policies."""

from edgeexit.agent.agent import ActivePolicy, Agent
from edgeexit.agent.config import AgentConfig
from edgeexit.agent.stream import Stream

__all__ = ["ActivePolicy", "Agent", "AgentConfig", "Stream"]
