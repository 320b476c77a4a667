"""One thing that needs the attention of a user now, with what to do; the kinds, the most urgent first."""

from typing import Final

import msgspec

KINDS: Final = (
    "no calibrator", "database full", "clone", "key changed", "unknown revision", "risk exceeded", "shard not stored",
    "set aside", "far from cohort", "unconfirmed", "reverted", "rejected", "not enrolled", "no labels", "over budget",
    "problem", "losses", "not stored",
)  # fmt: skip


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that needs attention."""

    kind: str
    """One of `KINDS`."""
    subject: str
    """FLEET/SHARD/DEVICE, FLEET/BUNDLE/COHORT, FLEET/SHARD or FLEET, or the database."""
    text: str
    """What is wrong."""
    advice: str
    """What to do."""


def drops_attention(subject: str, drops: dict[str, int], last: str) -> Attention:
    """Return what to report of messages to a device or a fleet that were not stored."""
    counts = ", ".join(f"{count} {cause}" for cause, count in drops.items())
    return Attention(
        kind="not stored",
        subject=subject,
        text=f"messages not stored: {counts}; the last one: {last}",
        advice="the log of the calibrator names the cause",
    )
