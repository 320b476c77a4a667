"""Lists what needs the attention of a user now, the most urgent first, with what to do. Pure functions, no I/O."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from edgeexit_calibration.ingest.store_uplinks import CLONE_SHOWN_FOR
from edgeexit_calibration.views.cohort_views import CohortView
from edgeexit_calibration.views.device_views import DeviceView, FleetView

_SHOWN_FOR: Final = timedelta(days=1)
"""Losses and messages that were not stored are reported for this time after the last one."""
_SHOWN_OTHERWISE: Final = ("key not approved", "revoked")
_KINDS: Final = (
    "clone", "key changed", "risk exceeded", "unconfirmed", "reverted", "rejected", "not enrolled", "problem", "losses",
    "not stored",
)  # fmt: skip


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that needs attention."""

    kind: str
    subject: str
    """FLEET/SHARD/DEVICE, FLEET/BUNDLE/COHORT or FLEET."""
    text: str
    """What is wrong."""
    advice: str
    """What to do."""


def needs_attention(
    devices: Sequence[DeviceView], cohorts: Sequence[CohortView], fleets: Sequence[FleetView], *, now: datetime
) -> list[Attention]:
    """Return everything that needs attention at the time `now`, the most urgent kind first."""
    found = [item for device in devices for item in _of_device(device, now)]
    found += [
        Attention(
            kind="risk exceeded",
            subject=str(cohort.address),
            text=f"revision {cohort.revision}: {cohort.condition}",
            advice="edgeexit calibrator history shows why; the calibrator refits as soon as it can",
        )
        for cohort in cohorts
        if cohort.condition is not None
    ]
    found += [
        _drops(fleet.fleet, fleet.drops, fleet.last_drop) for fleet in fleets if now - fleet.last_drop_at < _SHOWN_FOR
    ]
    return sorted(found, key=lambda item: _KINDS.index(item.kind))


def _of_device(device: DeviceView, now: datetime) -> Iterator[Attention]:
    name = device.name
    if device.clone_seen_at is not None and now - device.clone_seen_at < CLONE_SHOWN_FOR:
        minutes = max(0, int((now - device.clone_seen_at).total_seconds() // 60))
        yield Attention(
            kind="clone",
            subject=name,
            text=f"two agents run under this name (starts {' and '.join(device.clone_starts)}; last noticed {minutes} "
            "min ago)",
            advice="give the copy a name of its own and remove its state folder, then: edgeexit calibrator clear-clone "
            f"{name}",
        )
    yield from _of_keys(device)
    if device.unconfirmed and device.online:
        yield Attention(
            kind="unconfirmed",
            subject=name,
            text=f"no new heartbeat reached the device; it runs revision {device.revision}",
            advice="is a calibrator running, and does the broker deliver retained messages? A broker may withhold "
            "policies",
        )
    if device.reverted is not None:
        yield Attention(
            kind="reverted",
            subject=name,
            text=f"the device reverted revision {device.reverted.revision}: {device.reverted.reason}",
            advice="fit another policy and register it, if this is not due to the device",
        )
    if device.rejected is not None:
        yield Attention(
            kind="rejected",
            subject=name,
            text=f"the device rejected a policy: {device.rejected}",
            advice="does it trust the key of the calibrator, and has it the right fleet, cohort and bundle?",
        )
    for problem in device.problems:
        yield Attention(kind="problem", subject=name, text=problem, advice="see the log of the agent")
    if device.losses_at is not None and now - device.losses_at < _SHOWN_FOR:
        yield _losses(name, msgspec.to_builtins(device.losses))
    if device.last_drop_at is not None and now - device.last_drop_at < _SHOWN_FOR:
        counts = {cause: count for cause, count in device.drops.items() if cause not in _SHOWN_OTHERWISE}
        if counts:
            yield _drops(name, counts, device.last_drop or "")


def _of_keys(device: DeviceView) -> Iterator[Attention]:
    name = device.name
    if device.revoked_at is not None:
        return
    if device.key is not None and device.offered_key is not None:
        yield Attention(
            kind="key changed",
            subject=name,
            text=f"it signs with key {device.offered_key} instead of {device.key}: a clone, a wiped device or a "
            "forger; its audits are not stored",
            advice=_approval(name, device.offered_key),
        )
    elif device.key is None and device.offered_key is not None and "key not approved" in device.drops:
        yield Attention(
            kind="not enrolled",
            subject=name,
            text=f"key {device.offered_key} waits for an approval; its audits are not stored",
            advice=_approval(name, device.offered_key),
        )


def _approval(name: str, key: str) -> str:
    return (
        "compare the key with `edgeexit keys identity` on the device, then: edgeexit calibrator approve "
        f"{name} --key {key}"
    )


def _losses(name: str, losses: dict[str, int]) -> Attention:
    largest = losses.pop("largest_bytes", 0)
    parts = [f"{count} {cause}" for cause, count in losses.items()]
    size = f" (largest {largest} bytes)" if largest else ""
    return Attention(
        kind="losses",
        subject=name,
        text=f"messages given up by the device: {', '.join(parts)}{size}",
        advice="full: enlarge the outbox; oversized: raise the broker's maximum packet size; damaged: check the disk",
    )


def _drops(subject: str, drops: dict[str, int], last: str) -> Attention:
    counts = ", ".join(f"{count} {cause}" for cause, count in drops.items())
    return Attention(
        kind="not stored",
        subject=subject,
        text=f"messages not stored: {counts}; the last one: {last}",
        advice="the log of the calibrator names the cause",
    )
