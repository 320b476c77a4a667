"""What all calls of the endpoint share: the agent, the metadata and whether inference works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeexit.agent.endpoint.documents import model_metadata, server_metadata
from edgeexit.agent.endpoint.model_inputs import ModelInputs

if TYPE_CHECKING:
    from edgeexit.agent.agent import Agent
    from edgeexit.agent.config import EndpointConfig


class InferenceService:
    """State that all calls share."""

    def __init__(self, agent: Agent, config: EndpointConfig) -> None:
        self.agent = agent
        self.config = config
        self.server = server_metadata()
        self.model = model_metadata(agent.manifest, agent.bundle_digest)
        self.inputs = ModelInputs(agent.manifest.inputs)
        self.ready = True
        """False: inference does not complete, or the endpoint is stopping."""
        self._last_failure = ""

    def is_new_failure(self, failure: BaseException) -> bool:
        """Return True if a failure differs from the last one: logging it for every request would fill the disk."""
        before, self._last_failure = self._last_failure, repr(failure)
        return self._last_failure != before
