"""The costs of a cohort's exits: as its own devices measured them, or else as they were registered.

A device measures its latency profile when an operator requests it. The cost of an exit is the median over the devices,
so it stays right if fewer than half of the profiles are wrong. A profile counts if

- the device counts (see `counted_devices`) and was seen lately;
- the profile has no reason in `LatencyProfile.invalid`;
- it was measured for single samples, as `Bundle.costs` requires, and has one stage per exit, each with a latency.

So many profiles are needed: of 3 devices, or of half of the devices in a cohort of fewer than 5. The newest 100 are
read. Forged profiles can make a policy more expensive than necessary, but its risk is certified all the same.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.latency import LatencyProfile
from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.store.tables import CohortRow, DeviceRow, ProfileRow, RegistrationRow
from edgeexit_calibration.views.counted_devices import counts_now, number_of_counted

_ENOUGH: Final = 3
"""Devices whose profiles are enough in a cohort of any size."""
_MAX_PROFILES: Final = 100
"""Newest profiles of a cohort that are read."""


class FieldCosts(NamedTuple):
    """The median costs of the devices of a cohort."""

    cumulative_ms: tuple[float, ...]
    """[K] cumulative cost of each exit, increasing."""
    devices: int
    """Number of devices whose profiles count."""


class CohortCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The costs with which the policies of a registered cohort are compared."""

    unit: Literal["ms", "macs"]
    """`ms` (measured) or `macs` (counted)."""
    cumulative: tuple[float, ...]
    """[K] cumulative cost of each exit."""
    devices: int
    """Number of devices that measured them; 0: they are those of the registration."""


def costs_in_use(registration: RegistrationRow) -> CohortCosts:
    """Return the costs that the calibrator uses for a cohort: from the field, or else the registered ones."""
    if registration.field_costs is None:
        unit: Literal["ms", "macs"] = "ms" if registration.cost_unit == "ms" else "macs"
        return CohortCosts(unit=unit, cumulative=tuple(registration.costs), devices=0)
    return CohortCosts(unit="ms", cumulative=tuple(registration.field_costs), devices=registration.field_devices or 0)


def field_costs(
    session: Session, cohort: CohortRow, exits: int, enrolment: Enrolment, *, now: datetime
) -> FieldCosts | None:
    """Return the costs of a cohort of a bundle with K = `exits` exits as its devices measured them.

    None if too few devices have a profile that counts.
    """
    newest = (
        select(ProfileRow.content)
        .join(DeviceRow, DeviceRow.id == ProfileRow.device_id)
        .where(ProfileRow.bundle == cohort.bundle, *counts_now(cohort.id, enrolment, now=now))
        .order_by(ProfileRow.received_at.desc(), ProfileRow.device_id)
        .limit(_MAX_PROFILES)
    )
    measured = list(_measured(session.scalars(newest), exits))
    if not measured:
        return None
    devices = number_of_counted(session, cohort.id, enrolment, now=now, limit=2 * _ENOUGH)
    return median_costs(measured, devices=devices)


def median_costs(measured: Sequence[tuple[float, ...]], *, devices: int) -> FieldCosts | None:
    """Return the median of the cumulative costs [D, K] of profiles that count; None if they are too few.

    Each row increases, so the medians do, too. `devices`: number of devices in the cohort, whether they have a profile
    or not; only numbers below 5 make a difference.
    """
    if len(measured) < min(_ENOUGH, (devices + 1) // 2) or not measured:
        return None
    return FieldCosts(tuple(np.median(np.asarray(measured), axis=0).tolist()), len(measured))


def _measured(contents: Iterable[str], exits: int) -> Iterable[tuple[float, ...]]:
    """Yield the cumulative costs [K] in ms of each profile that counts."""
    for content in contents:
        try:
            profile = msgspec.json.decode(content, type=LatencyProfile)
        except msgspec.DecodeError:  # of another version
            continue
        costs = profile.cumulative_ms
        if not profile.invalid and profile.batch == 1 and len(costs) == exits and _increases(costs):
            yield costs


def _increases(costs: tuple[float, ...]) -> bool:
    return all(before < after for before, after in pairwise((0.0, *costs, inf)))
