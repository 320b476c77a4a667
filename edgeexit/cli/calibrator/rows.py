"""The table rows of `edgeexit calibrator devices` and `edgeexit calibrator history`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeexit.formatting import percent, threshold_text

if TYPE_CHECKING:
    from edgeexit_calibration import DeviceView, EventView, PolicyView

DEVICE_COLUMNS = ("device", "online", "cohort", "rev.", "key", "troubles")
WIDE_DEVICE_COLUMNS = (*DEVICE_COLUMNS, "last new")
NARROW_POLICY_COLUMNS = ("rev.", "time (UTC)", "by", "certificate", "reason")
POLICY_COLUMNS = ("revision", "created (UTC)", "by", "policy", "thresholds", "certificate", "reason")
EVENT_COLUMNS = ("event", "time (UTC)", "by", "details")

_SHORT_TIME = "%m-%d %H:%M"
_TIME = "%Y-%m-%d %H:%M:%S"


def device_cells(device: "DeviceView") -> Sequence[str]:
    """Return a row of the table of devices."""
    return (
        device.name,
        {True: "yes", False: "no", None: "?"}[device.online],
        f"{(device.bundle or '?')[:6]}/{device.cohort or '?'}",
        "?" if device.revision is None else str(device.revision),
        _key_state(device),
        ", ".join(device.troubles),
    )


def wide_device_cells(device: "DeviceView") -> Sequence[str]:
    """Return a row of the table of devices, with the time of the last new message."""
    return (*device_cells(device), f"{device.last_seen:{_SHORT_TIME}}")


def _key_state(device: "DeviceView") -> str:
    """Return the state of the enrolment of a device; `shown`: it has a key, and has sent no audit yet."""
    if device.revoked_at is not None:
        return "revoked"
    if device.offered_key is None:
        return "none" if device.key is None else "enrolled"
    if device.key is not None:
        return "changed"
    return "waits" if "key not approved" in device.drops else "shown"


def policy_cells(policy: "PolicyView") -> Sequence[str]:
    """Return a row of the history of policies."""
    certificate = policy.certificate
    return (
        str(policy.revision),
        f"{policy.created_at:{_TIME}}" + ("" if policy.published_at else " (not published yet)"),
        policy.created_by,
        policy.policy,
        " ".join(threshold_text(threshold) for threshold in policy.thresholds),
        "none"
        if certificate is None
        else f"<= {percent(certificate.risk)} at {100 * (1 - certificate.delta):g} %, n = {certificate.samples}",
        policy.reason,
    )


def narrow_policy_cells(policy: "PolicyView") -> Sequence[str]:
    """Return a row of the narrow history of policies, without their kinds and thresholds."""
    revision, _, user, _, _, certificate, reason = policy_cells(policy)
    return (
        revision,
        f"{policy.created_at:{_SHORT_TIME}}" + ("" if policy.published_at else " unpublished"),
        user,
        certificate.partition(",")[0],
        reason,
    )


def event_cells(event: "EventView") -> Sequence[str]:
    """Return a row of the audit log of devices, without the device."""
    details = "; ".join(f"{name}: {_detail(value)}" for name, value in event.details.items())
    return event.kind, f"{event.time:{_TIME}}", event.actor, details


def cohort_event_cells(event: "EventView") -> Sequence[str]:
    """Return a row of the audit log of a cohort; its details name the device that the event is about."""
    *cells, details = event_cells(event)
    return (*cells, "; ".join(filter(None, ("" if event.device is None else f"device: {event.device}", details))))


def _detail(value: Any) -> str:
    """Return a value of the details of an event, as commands write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_detail, value)) if isinstance(value, list) else str(value)
