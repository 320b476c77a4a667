"""Stores audits, each sample once, although a device may send an audit as a whole, in parts, and again."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from edgeexit.policies.readout import COLUMNS, TOP1, Array, readouts_to_bytes
from edgeexit.wire import Audit
from edgeexit.wire.audit_parts import missing_parts, related_sequences
from edgeexit_calibration.ingest.bulk_write import (
    driver_value,
    insert_rows,
    is_postgresql,
    new_ids,
    table_of,
    upsert_rows,
)
from edgeexit_calibration.ingest.known_devices import KnownDevice
from edgeexit_calibration.ingest.known_series import StartKey
from edgeexit_calibration.ingest.sample_arrays import SampleArrays, arrays_of
from edgeexit_calibration.store.stored_scores import differing_to_bytes, scores_to_bytes
from edgeexit_calibration.store.tables import AuditedSampleRow, AuditRow, AuditTotalRow

_AUDITS: Final = table_of(AuditRow)
_SAMPLES: Final = table_of(AuditedSampleRow)
_TOTALS: Final = table_of(AuditTotalRow)
_COUNTS: Final = ("samples", "disagreeing", "loss", "labelled", "correct", "final_correct")
"""The columns of `AuditTotalRow` that count."""
_PLACE_GAP: Final = 3
"""The numbers of the parts of two successive audits are at most so far apart."""
_BYTES_PER_EXIT: Final = 4 * len(COLUMNS)
_STORED_NUMBERS: Final = (
    "SELECT a.device_id, a.start, a.sequence FROM {ranges} JOIN audit a "
    "ON a.device_id = {device_id} AND a.start = {start} AND a.sequence BETWEEN {low} AND {high}"
)
_ON_SQLITE: Final = _STORED_NUMBERS.format(
    ranges="json_each(?) AS r",
    **{
        name: f"json_extract(r.value, '$[{place}]')" for place, name in enumerate(("device_id", "start", "low", "high"))
    },
)
_ON_POSTGRESQL: Final = _STORED_NUMBERS.format(
    ranges="unnest(%b::integer[], %b::text[], %b::bigint[], %b::bigint[]) AS r(device_id, start, low, high)",
    **{name: f"r.{name}" for name in ("device_id", "start", "low", "high")},
)


class AcceptedAudit(NamedTuple):
    """An audit that is to be stored, with its device, the id of its cohort, and its samples as arrays."""

    device: KnownDevice
    cohort_id: int
    audit: Audit
    samples: SampleArrays


def store_audits(connection: Connection, audits: Sequence[AcceptedAudit], *, now: datetime) -> list[AcceptedAudit]:
    """Write the samples that are not stored yet; return the audits, and parts of audits, that were written."""
    if not audits:
        return []
    stored = _stored_numbers(connection, audits)
    new: list[AcceptedAudit] = []
    for device, cohort_id, audit, samples in audits:
        known = stored[device.id, audit.start]
        for part in missing_parts(audit, known) if known else (audit,):
            known.add(part.sequence)
            new.append(AcceptedAudit(device, cohort_id, part, samples if part is audit else arrays_of(part.samples)))
    if not new:
        return []
    numbers = new_ids(connection, _AUDITS, len(new))
    received_at = driver_value(now, connection.dialect)
    rows = [
        (number, device.id, audit.start, audit.sequence, received_at)
        for number, (device, _, audit, _) in zip(numbers, new, strict=True)
    ]
    insert_rows(connection, _AUDITS, ("id", "device_id", "start", "sequence", "received_at"), rows)
    sample_rows: list[tuple[Any, ...]] = []
    totals: defaultdict[tuple[int, int, str], list[float]] = defaultdict(lambda: [0] * len(_COUNTS))
    for number, accepted in zip(numbers, new, strict=True):
        of_audit = list(_sample_rows(number, accepted))
        sample_rows += of_audit
        if accepted.device.counted:
            total = totals[accepted.cohort_id, accepted.audit.revision, accepted.device.address.shard]
            for index, count in enumerate(_counts(accepted.samples, of_audit)):
                total[index] += count
    insert_rows(connection, _SAMPLES, _SAMPLE_COLUMNS, sample_rows)
    upsert_rows(
        connection,
        _TOTALS,
        ("cohort_id", "revision", "writer", *_COUNTS),
        [(*key, *total) for key, total in totals.items()],
        added=_COUNTS,
    )
    return new


def _stored_numbers(connection: Connection, audits: Sequence[AcceptedAudit]) -> defaultdict[StartKey, set[int]]:
    """Return the stored numbers that concern these audits: their own, and those of what contains them or is in them."""
    ranges: defaultdict[StartKey, list[range]] = defaultdict(list)
    for device, _, audit, _ in audits:
        containing, within = related_sequences(audit.sequence)
        ranges[device.id, audit.start] += [
            within,
            *(range(number, number + 1) for number in (audit.sequence, *containing)),
        ]
    rows = [(*key, low, high) for key, found in ranges.items() for low, high in _merged(found)]
    if is_postgresql(connection):
        result = connection.exec_driver_sql(_ON_POSTGRESQL, tuple(map(list, zip(*rows, strict=True))))
    else:
        result = connection.exec_driver_sql(_ON_SQLITE, (json.dumps(rows),))
    stored: defaultdict[StartKey, set[int]] = defaultdict(set)
    for device_id, start, sequence in result:
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


_SAMPLE_COLUMNS: Final = (
    "audit_id", "cohort_id", "revision", "exits", "exit", "disagrees", "label", "readouts", "scores", "differing",
    "counted",
)  # fmt: skip
_DISAGREES: Final = _SAMPLE_COLUMNS.index("disagrees")


def _map_loss(differing: Array, exits: npt.NDArray[np.int64]) -> float:
    """Return the sum of the fractions [n, K] of maps that differ, each at the exit [n] of its sample."""
    return float(differing[np.arange(len(exits)), exits].sum(dtype=np.float64))


def _counts(samples: SampleArrays, rows: Sequence[tuple[Any, ...]]) -> tuple[float, ...]:
    """Return the counts of an audit with these rows, see `_COUNTS`."""
    disagreeing = sum(row[_DISAGREES] for row in rows)
    loss = float(disagreeing) if samples.differing is None else _map_loss(samples.differing, samples.exits)
    known = (samples.labels >= 0) & (samples.differing is None)  # one label is not that of a map
    correct = known & (samples.predictions == samples.labels)
    final_correct = known & (samples.readouts[:, -1, TOP1] == samples.labels)
    return len(samples.exits), disagreeing, loss, int(known.sum()), int(correct.sum()), int(final_correct.sum())


def _sample_rows(audit_id: int, accepted: AcceptedAudit) -> Iterable[tuple[Any, ...]]:
    """Yield the rows of an audit."""
    device, cohort_id, audit, samples = accepted
    readouts = readouts_to_bytes(samples.readouts)
    exits = len(audit.samples[0].top1)
    size = exits * _BYTES_PER_EXIT
    for place, sample in enumerate(audit.samples):
        yield (
            audit_id,
            cohort_id,
            audit.revision,
            exits,
            sample.exit,
            sample.disagrees,
            sample.label,
            readouts[place * size : (place + 1) * size],
            None if sample.scores is None else scores_to_bytes(sample.scores, sample.predictions or sample.top1),
            None if sample.differing is None else differing_to_bytes(sample.differing),
            device.counted,
        )
