"""The agent on a device: inference, reports, audits, policies over the air, and a local endpoint."""

from edgeexit.agent.agent import Agent, Submitted
from edgeexit.agent.config import AgentConfig, EndpointConfig
from edgeexit.agent.policy.active_policy import ActivePolicy
from edgeexit.agent.stream import SampleStream

__all__ = ["ActivePolicy", "Agent", "AgentConfig", "EndpointConfig", "SampleStream", "Submitted"]
