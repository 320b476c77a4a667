"""Calibrators are killed with SIGKILL and started again under load, with SQLite and with PostgreSQL."""

import random
from concurrent.futures import ThreadPoolExecutor

from scripts.chaoslab.lab import Check, Lab, running
from scripts.chaoslab.postgres import new_database, why_no_postgres
from scripts.chaoslab.waiting import pause

_LONG, _SHORT = 200, 6
"""Kills on each database."""
_AGENTS = 3
_RATE = 50.0
_INTERVAL_S = 1.0


def kill_calibrators(lab: Lab) -> list[Check]:
    """Kill the calibrator 200 times on each database (short form: 6 times)."""
    databases: dict[str, str | None] = {"SQLite": None}
    skipped = []
    if (reason := why_no_postgres()) is None:
        databases["PostgreSQL"] = new_database(lab.postgres())
    else:
        skipped = [Check(situation=lab.name, promise="PostgreSQL", counted=reason, kept=None)]
    with ThreadPoolExecutor(len(databases)) as pool:
        futures = [pool.submit(_kill_on, lab, name, url) for name, url in databases.items()]
        return [check for future in futures for check in future.result()] + skipped


def _kill_on(lab: Lab, name: str, url: str | None) -> list[Check]:
    kills = _LONG if lab.long else _SHORT
    generator = random.Random(f"{lab.seed}/{name}")  # noqa: S311 - moments of faults
    broker = lab.broker()
    calibrator = lab.calibrator(broker.url, database=url)
    policies = lab.policies(calibrator.database, broker)
    devices = [lab.device(f"{name}-{n}", broker.url, rate=_RATE, report_interval_s=_INTERVAL_S) for n in range(_AGENTS)]
    load = lab.simulated_load(broker.url, calibrator.database)
    for device in devices:
        device.start()
    list(running(devices))
    load.wait_for_load()
    for kill in range(kills):
        lab.progress(f"{name}: {kill} of {kills} kills")
        if kill % 5 == 0:
            policies.renew()
        pause(generator.uniform(0.1, 1.5))
        calibrator.kill()
        pause(generator.uniform(0.0, 0.3))
        calibrator.start()
    fault = f"the calibrator on {name} is killed"
    simulated = lab.load_check(fault, load)
    return [*lab.fleet_checks(fault, f"{kills} kills", devices, policies, device=f"{name}-%"), simulated]
