"""Fills a database with rows for the tests of the views, without the ingest."""

from datetime import datetime, timezone

import msgspec
import numpy as np
from edgeexit_calibration.store.cohorts import CohortAddress, find_or_add_cohort
from edgeexit_calibration.store.counts import pack_counts
from edgeexit_calibration.store.tables import DeviceRow

from edgeexit.wire import SCORE_BINS, encode
from edgeexit.wire.counter_array import PER_EXIT, width_of
from tests.calibration.scenario import COHORT, FLEET, state_of

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
DIGEST = "a" * 64
ADDRESS = CohortAddress(FLEET, DIGEST, COHORT)


def add_device(session, name, *, shard="s0", fleet=FLEET, cohort=COHORT, revision=1, online=True, **values):
    """Add a device as the ingest stores it; without a state if `cohort` is None."""
    reported = {}
    if cohort is not None:
        state = msgspec.structs.replace(state_of(DIGEST, revision=revision, online=online), cohort=cohort)
        row = find_or_add_cohort(session, CohortAddress(fleet, DIGEST, cohort))
        reported = {"state": encode(state).decode(), "cohort_id": row.id, "revision": revision, "online": online}
    device = DeviceRow(
        fleet=fleet, shard=shard, device=name, **{"first_seen": NOW, "last_seen": NOW, **reported, **values}
    )
    session.add(device)
    session.flush()
    return device


def counts_at(exits, *, latency_bin=13, failed=0):
    """Return packed counts with these numbers of exited samples, whose latencies lie in one bin."""
    counts = np.zeros(width_of(len(exits)), np.int64)
    for k, exited in enumerate(exits):
        counts[k * PER_EXIT] = sum(exits[k:])
        counts[k * PER_EXIT + 1] = exited
        counts[k * PER_EXIT + 2 + SCORE_BINS + latency_bin] = exited
    counts[-1] = failed
    return pack_counts(counts)
