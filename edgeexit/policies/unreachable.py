"""Says, in words, which thresholds of a policy can never let anything leave."""

from collections.abc import Sequence

from edgeexit.policies.base import Policy


def unreachable_exits_warning(policy: Policy, exits: Sequence[str]) -> str | None:
    """Return one line on the policy's `unreachable_exits`, given the names [K] of the exits; None where there are none."""
    silent = [
        f"'{exits[k]}' (threshold {policy.thresholds[k]:g}, highest score possible {policy.score_limits[k]:g})"
        for k in policy.unreachable_exits
    ]
    if not silent:
        return None
    return f"policy '{policy.kind}' can never leave at {', '.join(silent)}; lower it, or fit again"
