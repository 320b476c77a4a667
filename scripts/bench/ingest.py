"""Measures how many messages a calibrator stores per second, without a broker, and where the time goes.

    python scripts/bench/ingest.py [--database URL] [--devices 10000] [--batch 2000] [--audits 0.1] [--steps] [--json]

One thread decodes, checks quotas, commits durably and builds the acknowledgements; the service uses two. The default
database is a new SQLite file; one on PostgreSQL must be empty. Every device sends reports in turn, whose counters
grow, and with the probability `--audits` an audit of four samples that it has signed. The first batches, which add the
devices and pin their keys, are left out. The CPU time is that of this process; PostgreSQL has more of its own. Other
programs make everything slower: `decodings` is the ratio of the CPU time per report to that of decoding its JSON
alone, measured in the same moments.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import functools
import gc
import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import sqlalchemy.engine
from edgeexit_calibration import Quotas, open_database
from edgeexit_calibration.ingest import answers, batch_store, bucket_store, message_reader, series_store
from edgeexit_calibration.ingest.intake import Intake
from edgeexit_calibration.ingest.rules import IngestRules

from edgeexit.latency import BIN_COUNT
from edgeexit.signing import PrivateKey
from edgeexit.wire import (
    SCORE_BINS,
    Audit,
    AuditedSample,
    Delivery,
    DeviceAddress,
    ExitCounters,
    Report,
    decode,
    encode,
    up_topic,
)
from edgeexit.wire.audit_signing import sign_audit

_FLEET: Final = "bench"
_SAMPLES_PER_AUDIT: Final = 4
_STEPS: Final = {
    "read: decode, quotas, counters": (message_reader.MessageReader, "read"),
    "  of that counters to arrays": (message_reader.MessageReader, "_count"),
    "devices: find, read decisions": (batch_store.KnownDevices, "find"),
    "records of devices to change": (batch_store, "locked_records"),
    "transaction without commit": (batch_store.BatchStore, "store"),
    "series and buckets": (batch_store.SeriesStore, "store"),
    "  of that known series": (series_store.KnownSeries, "find"),
    "  of that steps": (series_store, "_steps"),
    "  of that unpack": (series_store, "unpack_rows"),
    "  of that pack": (series_store, "pack_rows"),
    "  of that buckets": (bucket_store.BucketStore, "add"),
    "    of that sums": (bucket_store, "sum_groups"),
    "    of that packed": (bucket_store, "add_to_packed"),
    "audits": (batch_store, "store_audits"),
    "rows of devices": (batch_store.BatchStore, "_update_devices"),
    "SQL of many rows": (sqlalchemy.engine.Connection, "exec_driver_sql"),
    "commit": (sqlalchemy.engine.Connection, "_commit_impl"),
    "acknowledgements": (answers, "answers"),
}
"""Name -> where the function is that takes this time; indented steps and SQL are parts of others."""


def report_payload(generator: np.random.Generator, number: int, exits: int) -> bytes:
    """Return the report number `number` of an agent; every counter is higher than in those before it."""
    counters = []
    remaining = 1000 * (number + 1) * exits
    for _ in range(exits):
        exited = 1000 * (number + 1)
        latency = [0] * BIN_COUNT
        for index in range(12, 20):
            latency[index] = exited // 8
        scores = (generator.integers(0, 10, SCORE_BINS) + number * 40).tolist()
        counters.append(ExitCounters(reached=remaining, exited=exited, scores=tuple(scores), latency=tuple(latency)))
        remaining -= exited
    report = Report(
        start="0" * 16,
        sequence=2 * number,
        bundle="b" * 64,
        cohort="cameras",
        revision=1,
        uptime_s=10.0 * number,
        exits=tuple(counters),
    )
    return encode(report)


def audit_payload(topic: str, key: PrivateKey, number: int, exits: int) -> bytes:
    """Return a signed audit."""
    sample = AuditedSample(
        exit=0, top1=(3,) * exits, p1=(0.75,) * exits, p2=(0.125,) * exits, entropy=(0.625,) * exits, label=3
    )
    audit = Audit(
        start="0" * 16,
        sequence=2 * number + 1,
        bundle="b" * 64,
        cohort="cameras",
        revision=1,
        samples=(sample,) * _SAMPLES_PER_AUDIT,
    )
    return sign_audit(encode(audit), topic=topic, key=key)


def make_batches(options: argparse.Namespace) -> Iterator[list[Delivery]]:
    """Yield batches with `--batch` reports each, and audits between them."""
    generator = np.random.default_rng(0)
    key = PrivateKey.generate()
    devices = [DeviceAddress(_FLEET, f"s{n % 8}", f"d{n}") for n in range(options.devices)]
    order = generator.permutation(options.devices)
    number = 0
    while True:
        batch = []
        for _ in range(options.batch):
            turn, place = divmod(number, options.devices)
            device = devices[order[place]]
            number += 1
            batch.append(
                Delivery(topic=up_topic(device, "report"), payload=report_payload(generator, turn, options.exits))
            )
            if turn == 0 or generator.random() < options.audits:
                topic = up_topic(device, "audit")
                batch.append(Delivery(topic=topic, payload=audit_payload(topic, key, turn, options.exits)))
        yield batch


def time_steps(elapsed: dict[str, float]) -> None:
    """Add the time of each step to `elapsed` from now on."""
    for name, (owner, attribute) in _STEPS.items():
        setattr(owner, attribute, _timed(getattr(owner, attribute), name, elapsed))


def _timed(function: Any, name: str, elapsed: dict[str, float]) -> Any:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            elapsed[name] += time.process_time() - started

    return timed


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Store batches; return the rates, and the microseconds of CPU per report of every step."""
    sent: list[int] = []
    rules = IngestRules(quotas=Quotas(messages_per_minute=10**6, max_devices=10**6))
    service = Intake(open_database(url), lambda messages: sent.append(len(messages)), fleet=_FLEET, rules=rules)
    batches, stop = make_batches(options), threading.Event()
    for _ in range(-(-options.devices // options.batch) + 2):
        service.store(next(batches), stop)
    elapsed: defaultdict[str, float] = defaultdict(float)
    if options.steps:
        time_steps(elapsed)
    seconds, cpu, decoding, messages = [], 0.0, 0.0, 0
    for _ in range(options.batches):
        batch = next(batches)
        messages += len(batch)
        started, cpu_started = time.perf_counter(), time.process_time()
        service.store(batch, stop)
        cpu += time.process_time() - cpu_started
        seconds.append(time.perf_counter() - started)
        payloads = [delivery.payload for delivery in batch if delivery.topic.endswith("report")]
        cpu_started = time.process_time()
        for payload in payloads:
            decode(payload, Report)
        decoding += time.process_time() - cpu_started
    reports = options.batches * options.batch
    return {
        "reports": reports,
        "messages": messages,
        "dropped": service.drops.total,
        "reports_per_s": round(reports / sum(seconds)),
        "best_batch_reports_per_s": round(options.batch / min(seconds)),
        "reports_per_cpu_s": round(reports / cpu),
        "decodings": round(cpu / decoding, 2),
        "cpu_us_per_report": {name: round(elapsed[name] / reports * 1e6, 2) for name in _STEPS if name in elapsed},
    }


def main() -> None:
    """Measure and print."""
    gc.set_threshold(50_000, 20, 100)  # as `edgeexit calibrator run` does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--audits", type=float, default=0.1)
    parser.add_argument("--exits", type=int, default=3)
    parser.add_argument("--steps", action="store_true", help="time each step; this costs a few microseconds per report")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.database or str(Path(folder) / "ingest.sqlite"), options)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            print("\n".join(f"  {value_us:8.2f} us  {step}" for step, value_us in value.items()))
        else:
            print(f"{name:26} {value:>10,}")


if __name__ == "__main__":
    main()
