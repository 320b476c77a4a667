"""Policies as the checks send them."""

from collections.abc import Sequence
from typing import Any

from bench import Bench

from edgeexit.wire import State


def next_revision(bench: Bench) -> int:
    """Return a revision above all that the client has accepted."""
    state = bench.calibrator.current()
    return max(state.revision, state.accepted) + 1


def apply_policy(bench: Bench, revision: int, thresholds: Sequence[float | None], **fields: Any) -> State:
    """Publish a policy, and wait until the client reports it."""
    bench.calibrator.send_policy(bench.calibrator.document(revision, bench.exits, thresholds, **fields))
    return bench.wait_state(lambda state: state.revision == revision, f"a state with revision {revision}")


def equal_thresholds(bench: Bench, value: float | None) -> tuple[float | None, ...]:
    """Return the same threshold for every early exit."""
    return (value,) * (bench.exits - 1)
