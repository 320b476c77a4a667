"""Several calibrators serve one fleet on PostgreSQL; they are killed, paused, and cut off from database or broker."""

import signal
import time
from collections import Counter

from scripts.chaoslab.lab import Check, Device, Lab, running, wait_until_empty
from scripts.chaoslab.postgres import new_database, why_no_postgres
from scripts.chaoslab.proxy import Proxy
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until

_PROCESSES = 3
_SHARDS = 6
_RATE = 20.0
_INTERVAL_S = 2.0
_LONG, _SHORT = 5, 1
"""Rounds; each round has every fault once."""
_SHORT_FAULTS = ("kill", "pause")
_FAULTS = ("kill", "pause", "stop", "cut from the database", "cut from the broker")
_AWAY_S = 20.0
"""Longer than a lease."""
_NEW_MESSAGES_S = 1.5 * _INTERVAL_S
"""After this time each device has new messages that are not acknowledged."""
_TAKEOVER_S = 30.0


class _Process:
    """One calibrator behind a proxy to the database and a proxy to the broker."""

    def __init__(self, lab: Lab, broker_port: int, url: str, database_port: int) -> None:
        self.database_link = Proxy(database_port, lab.random, is_mqtt=False)
        self.broker_link = Proxy(broker_port, lab.random, is_mqtt=False)
        for proxy in (self.database_link, self.broker_link):
            lab.on_exit(proxy.close)
        behind_proxy = url.replace(f":{database_port}/", f":{self.database_link.port}/")
        self.calibrator = lab.new_calibrator(self.broker_link.url, database=behind_proxy, stored=url)


def several_processes(lab: Lab) -> list[Check]:
    """Let one of three processes fail 25 times (short form: twice)."""
    if (reason := why_no_postgres()) is not None:
        return [Check(situation=lab.name, promise="several processes", counted=reason, kept=None)]
    server = lab.postgres()
    url = new_database(server)
    broker = lab.broker()
    processes = [_Process(lab, broker.port, url, server.port) for _ in range(_PROCESSES)]
    processes[0].calibrator.start()
    for process in processes[1:]:
        process.calibrator.launch()
    policies = lab.policies(processes[0].calibrator.database, broker)
    devices = [
        lab.device(f"device-{n}", broker.url, rate=_RATE, report_interval_s=_INTERVAL_S, shard=f"s{n}")
        for n in range(_SHARDS)
    ]
    load = lab.simulated_load(broker.url, policies.database, shards=_SHARDS)
    for device in devices:
        device.start()
    list(running(devices))
    load.wait_for_load()
    if not wait_until(lambda: all(process.calibrator.ready for process in processes), GENEROUS_S):
        raise TimeoutError("one of the processes owns nothing although there are more shards than processes")
    wait_until_empty(devices)
    faults = [fault for _ in range(_LONG) for fault in _FAULTS] if lab.long else list(_SHORT_FAULTS)
    slowest: Counter[str] = Counter()
    for number, fault in enumerate(faults):
        lab.progress(f"{number} of {len(faults)} faults: {fault}")
        policies.renew()
        pause(lab.random.uniform(0.1, 1.5))
        taken_s = _fail(fault, lab.random.choice(processes), devices)
        slowest[fault] = max(slowest[fault], round(taken_s))
        wait_until_empty(devices)
    counts = Counter(faults)
    times = ", ".join(f"{count} x {name}" for name, count in counts.items())
    shown = ", ".join(f"{name} {seconds} s" for name, seconds in slowest.items())
    fault = "one of three processes fails"
    checks = [lab.load_check(fault, load)]
    checks += lab.fleet_checks(fault, times, devices, policies, device="device-%")
    logs = "".join(process.calibrator.log for process in processes)
    return [
        *checks,
        Check(
            situation=lab.name,
            promise=f"{fault}: all shards are served again within {_TAKEOVER_S:g} s",
            counted=f"at most: {shown}",
            # The short form runs beside other tests, so it does not judge the time.
            kept=not lab.long or max(slowest.values()) <= _TAKEOVER_S,
        ),
        Check(
            situation=lab.name,
            promise="three processes: no row of one collides with a row of another",
            counted=f"{logs.count('UniqueViolation')} UniqueViolation, {logs.count('DeadlockDetected')} deadlocks",
            kept="UniqueViolation" not in logs and "Deadlock" not in logs,
        ),
    ]


def _fail(fault: str, process: _Process, devices: list[Device]) -> float:
    """Let a process fail, wait until others have taken over, and let it return; return how long that took, in s."""
    calibrator = process.calibrator
    started = time.monotonic()
    if fault == "kill":
        calibrator.kill()
    elif fault == "pause":
        calibrator.signal(signal.SIGSTOP)
    elif fault == "stop":
        calibrator.signal(signal.SIGTERM)
        calibrator.wait(GENEROUS_S)
    elif fault == "cut from the database":
        process.database_link.cut(silently=True)
    else:
        process.broker_link.cut(silently=True)
    pause(_NEW_MESSAGES_S)
    # Its leases do not end while it reaches the database, so without the broker its shards wait for the end.
    wait_until_empty(devices, timeout_s=_AWAY_S if fault == "cut from the broker" else GENEROUS_S)
    taken_s = time.monotonic() - started
    if fault in {"kill", "stop"}:
        calibrator.start()
    elif fault == "pause":
        calibrator.signal(signal.SIGCONT)
    process.database_link.recover(reset_frozen=True)
    process.broker_link.recover(reset_frozen=True)
    return taken_s
