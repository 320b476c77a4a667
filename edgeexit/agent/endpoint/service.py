"""What all calls of the endpoint share: the agent, the metadata and whether inference works."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgeexit.agent.endpoint.documents import model_configuration, model_metadata, server_metadata
from edgeexit.agent.endpoint.model_inputs import ModelInputs
from edgeexit.agent.endpoint.statistics import ModelStatistics
from edgeexit.errors import InferenceError
from edgeexit.limited_log import LimitedLog

if TYPE_CHECKING:
    from edgeexit.agent.agent import Agent
    from edgeexit.agent.config import EndpointConfig


_log = logging.getLogger(__name__)


class InferenceService:
    """State that all calls share."""

    def __init__(self, agent: Agent, config: EndpointConfig) -> None:
        self.agent = agent
        self.config = config
        self.server = server_metadata()
        self.model = model_metadata(agent.manifest, agent.bundle_digest)
        self.configuration = model_configuration(
            self.model, max_waiting=agent.config.max_waiting, max_delay_ms=agent.config.max_delay_ms
        )
        self.statistics = ModelStatistics()
        self.inputs = ModelInputs(agent.manifest.inputs)
        self.ready = True
        """False: inference does not complete, or the endpoint is stopping."""
        self.limited = LimitedLog(_log)
        """What clients can cause again and again."""

    def log_failure(self, error: BaseException) -> None:
        """Log why a request failed, with a traceback unless it is an error of the runtime."""
        key = ("request", repr(error))
        if isinstance(error, InferenceError):
            self.limited.warning(key, "a request failed: %s", error)
        else:
            self.limited.error(key, "a request failed: %s", repr(error), exc_info=error)
