"""Records each inference: counts it, and submits its drawn samples for an audit."""

import logging

from edgeexit.agent.auditor import Auditor, DrawnSamples
from edgeexit.agent.counters import Counters
from edgeexit.agent.labels import Labels
from edgeexit.agent.policy.active_policy import ActivePolicy
from edgeexit.datasets import Inputs
from edgeexit.limited_log import LimitedLog
from edgeexit.runtime import Inference

_log = logging.getLogger(__name__)


class InferenceRecorder:
    """Records inferences. Thread-safe. An error in counting or auditing never fails an inference."""

    def __init__(self, counters: Counters, auditor: Auditor) -> None:
        self._counters = counters
        self._auditor = auditor
        self._repeats = LimitedLog(_log)

    def draw(
        self,
        inputs: Inputs,
        samples: int,
        active: ActivePolicy,
        *,
        labels: Labels | None,
        id: str | None,  # noqa: A002 - the protocol calls it id
    ) -> DrawnSamples | None:
        """Draw the samples to audit from a batch; see `Auditor.draw`."""
        try:
            return self._auditor.draw(inputs, samples, rule=active.audit, labels=labels, id=id)
        except Exception as error:  # noqa: BLE001 - the inference is more important
            self._log_error(error)
            return None

    def record(self, result: Inference, active: ActivePolicy, drawn: DrawnSamples | None) -> None:
        """Count an inference and submit its drawn samples. They are discarded if that fails."""
        try:
            self._counters.record(active.revision, active.policy, result)
            if drawn is not None:
                self._auditor.submit(drawn, result, revision=active.revision, policy=active.policy)
        except Exception as error:  # noqa: BLE001 - the inference is more important
            self._log_error(error)
            self.discard(drawn)

    def discard(self, drawn: DrawnSamples | None) -> None:
        """Discard the drawn samples of an inference that was cancelled or failed."""
        if drawn is not None:
            self._auditor.discard(drawn)

    def _log_error(self, error: Exception) -> None:
        self._repeats.error(
            type(error).__name__, "an inference cannot be counted or audited: %s", repr(error), exc_info=error
        )
