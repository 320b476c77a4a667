"""Stores audits, each sample once, although a device may send an audit as a whole, in parts, and again."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, insert, or_, select, tuple_
from sqlalchemy.orm import Session

from edgeexit.policies.readout import readouts_to_bytes
from edgeexit.wire import Audit
from edgeexit.wire.audit_parts import missing_parts, related_sequences
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, DeviceRow

_StartKey = tuple[int, str]
"""Id of a device, and a start of its agent: the numbers of audits are unique in it."""

_MAX_CONDITIONS: Final = 200
"""Databases limit the depth of an expression."""
_PLACE_GAP: Final = 3
"""The numbers of the parts of two successive audits are at most so far apart."""


def store_audits(session: Session, audits: Sequence[tuple[DeviceRow, int, Audit]], *, now: datetime) -> None:
    """Write the samples that are not stored yet; each audit comes with its device and the id of its cohort."""
    if not audits:
        return
    stored = _stored_numbers(session, audits)
    new: list[tuple[DeviceRow, int, Audit]] = []
    for device, cohort_id, audit in audits:
        known = stored[device.id, audit.start]
        for part in missing_parts(audit, known):
            known.add(part.sequence)
            new.append((device, cohort_id, part))
    rows = [
        AuditRow(device_id=device.id, start=audit.start, sequence=audit.sequence, received_at=now)
        for device, _, audit in new
    ]
    session.add_all(rows)
    session.flush()
    samples: list[dict[str, object]] = []
    for row, (device, cohort_id, audit) in zip(rows, new, strict=True):
        samples += _sample_rows(audit, row.id, cohort_id)
        device.audited_samples += len(audit.samples)
        device.last_seen = now
    if samples:
        session.execute(insert(AuditedSampleRow), samples)


def _stored_numbers(
    session: Session, audits: Sequence[tuple[DeviceRow, int, Audit]]
) -> defaultdict[_StartKey, set[int]]:
    """Return the stored numbers that concern these audits: their own, and those of what contains them or is in them."""
    numbers: set[tuple[int, str, int]] = set()
    parts: defaultdict[_StartKey, list[range]] = defaultdict(list)
    for device, _, audit in audits:
        containing, within = related_sequences(audit.sequence)
        numbers.update((device.id, audit.start, number) for number in (audit.sequence, *containing))
        parts[device.id, audit.start].append(within)
    columns = (AuditRow.device_id, AuditRow.start, AuditRow.sequence)
    conditions: list[ColumnElement[bool]] = [tuple_(*columns).in_(list(numbers))]
    any_part = [
        and_(AuditRow.device_id == device_id, AuditRow.start == start, AuditRow.sequence.between(low, high))
        for (device_id, start), ranges in parts.items()
        for low, high in _merged(ranges)
    ]
    conditions += [
        or_(*any_part[first : first + _MAX_CONDITIONS]) for first in range(0, len(any_part), _MAX_CONDITIONS)
    ]
    stored: defaultdict[_StartKey, set[int]] = defaultdict(set)
    for condition in conditions:
        for device_id, start, sequence in session.execute(select(*columns).where(condition)):
            stored[device_id, start].add(sequence)
    return stored


def _merged(ranges: Iterable[range]) -> list[tuple[int, int]]:
    """Return the first and the last numbers of the ranges, those of successive audits as one.

    Ranges that are far apart stay apart: a device must not make the calibrator read everything between them.
    """
    merged: list[tuple[int, int]] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if merged and one.start <= merged[-1][1] + _PLACE_GAP:
            merged[-1] = (merged[-1][0], max(merged[-1][1], one.stop - 1))
        else:
            merged.append((one.start, one.stop - 1))
    return merged


def _sample_rows(audit: Audit, audit_id: int, cohort_id: int) -> Iterable[dict[str, object]]:
    for sample in audit.samples:
        yield {
            "audit_id": audit_id,
            "cohort_id": cohort_id,
            "revision": audit.revision,
            "exits": len(sample.top1),
            "exit": sample.exit,
            "disagrees": sample.disagrees,
            "label": sample.label,
            "readouts": readouts_to_bytes(sample.readouts()),
        }
