"""Checks at the start of an agent that the stages compute the same on this machine as when they were compiled."""

import logging
import time

import numpy as np
import numpy.typing as npt

from edgeexit.bundle import Bundle
from edgeexit.runtime import Runner

_log = logging.getLogger(__name__)


def check_golden_samples(runner: Runner, bundle: Bundle) -> dict[str, npt.NDArray[np.generic]]:
    """Run the golden samples through an open runner; return the inputs of one of them [1, ...].

    Raises BundleError if they are missing, or the outputs differ from the expected ones.
    """
    from edgeexit.runtime.self_check import self_check  # noqa: PLC0415 - needed once

    started = time.monotonic()
    golden = bundle.golden()
    checks = self_check(runner, bundle, golden)
    _log.info(
        "%s: %d golden samples match, largest error %.2g (%.2f s)",
        runner.runtime,
        checks[0].samples,
        max(check.max_error for check in checks),
        time.monotonic() - started,
    )
    return {name: array[:1].copy() for name, array in golden.inputs.items()}
