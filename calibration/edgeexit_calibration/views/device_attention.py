"""What needs attention on devices: the number of devices per kind, and the first few. Reads no other devices."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import SHOWN_AS_KEY, SHOWN_FOR, TIMED, Trouble
from edgeexit_calibration.views.attention import Attention, drops_attention
from edgeexit_calibration.views.device_pages import IN_TROUBLE
from edgeexit_calibration.views.device_views import DeviceView, device_view

_MAX_COUNTED: Final = 10_000
"""Devices whose times are compared to count a kind that ends by time; if more have its flag, all flags are counted."""


class DeviceAttention(NamedTuple):
    """The first few devices of each kind, and the number of devices of each kind."""

    items: list[Attention]
    counts: dict[str, int]


def device_attention(session: Session, fleets: list[str], *, now: datetime, per_kind: int) -> DeviceAttention:
    """Return what needs attention on the devices of these fleets at the time `now`."""
    flags = select(DeviceRow.fleet, DeviceRow.troubles, func.count())
    flags = flags.where(DeviceRow.fleet.in_(fleets), IN_TROUBLE).group_by(DeviceRow.fleet, DeviceRow.troubles)
    found: dict[str, dict[int, int]] = {}
    for fleet, value, number in session.execute(flags.order_by(DeviceRow.fleet)):
        found.setdefault(fleet, {})[value] = number
    items: list[Attention] = []
    counts: dict[str, int] = {}
    for trouble in Trouble:
        for fleet, numbers in found.items():
            values = sorted(value for value in numbers if value & trouble)
            if not values:
                continue
            conditions = [DeviceRow.fleet == fleet, IN_TROUBLE, DeviceRow.troubles.in_(values)]
            flagged = sum(numbers[value] for value in values)
            number = flagged
            if trouble in TIMED:
                conditions.append(TIMED[trouble] > now - SHOWN_FOR)
                number = _count(session, conditions, flagged)
            if number:
                counts[trouble.kind] = counts.get(trouble.kind, 0) + number
            room = per_kind - sum(item.kind == trouble.kind for item in items)
            if number and room > 0:
                query = select(DeviceRow).where(*conditions).order_by(DeviceRow.troubles).limit(room)
                views = sorted(map(device_view, session.scalars(query)), key=lambda view: view.name)
                items += [item for view in views for item in attention_of(view, now) if item.kind == trouble.kind]
    return DeviceAttention(items, counts)


def _count(session: Session, conditions: list[ColumnElement[bool]], flagged: int) -> int:
    if flagged > _MAX_COUNTED:
        return flagged
    return session.scalar(select(func.count()).select_from(DeviceRow).where(*conditions)) or 0


def attention_of(device: DeviceView, now: datetime) -> Iterator[Attention]:
    """Yield everything that needs attention on a device at the time `now`."""
    name = device.name
    if device.clone_seen_at is not None:
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
    yield from _of_comparison(device)
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
    if device.losses_at is not None and now - device.losses_at < SHOWN_FOR:
        yield _losses(name, msgspec.to_builtins(device.losses))
    if device.last_drop_at is not None and now - device.last_drop_at < SHOWN_FOR:
        counts = {cause: count for cause, count in device.drops.items() if cause not in SHOWN_AS_KEY}
        if counts:
            yield drops_attention(name, counts, device.last_drop or "")


def _of_comparison(device: DeviceView) -> Iterator[Attention]:
    figures = ""
    if device.comparison is not None:
        own, others = (f"{100 * device.comparison[name]:.1f} %" for name in ("loss", "others"))
        figures = f"the loss of its {device.comparison['audits']:,.0f} audits is {own}, that of the others {others}"
    if device.set_aside_at is not None:
        since = f"its audits do not count since {device.set_aside_at:%Y-%m-%d %H:%M} UTC, by {device.set_aside_by}"
        yield Attention(
            kind="set aside",
            subject=device.name,
            text=f"{since}: {figures}" if figures else since,
            advice=f"look at its inputs; when they are right: edgeexit calibrator set-aside {device.name} --back",
        )
    elif figures:
        yield Attention(
            kind="far from cohort",
            subject=device.name,
            text=f"{figures}; its audits count",
            advice="look at its inputs; to leave its audits out of its cohort: edgeexit calibrator set-aside "
            f"{device.name}",
        )


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
