"""The warning about thresholds that no sample can reach."""

from collections.abc import Sequence

from edgeexit.policies.base import Policy


def unreachable_exits_warning(policy: Policy, exits: Sequence[str]) -> str | None:
    """Return a warning about `policy.unreachable_exits`, given the names [K] of the exits; None if there are none."""
    unreachable = [
        f"'{exits[k]}' (threshold {policy.thresholds[k]:g}, highest possible score {policy.score_limits[k]:g})"
        for k in policy.unreachable_exits
    ]
    if not unreachable:
        return None
    return (
        f"policy '{policy.kind}': no sample can exit at {', '.join(unreachable)}; lower the threshold, or "
        "fit the policy again"
    )
