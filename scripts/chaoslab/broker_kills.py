"""Brokers, and calibrators, are killed with SIGKILL and started again, while the agents continue."""

import random
from concurrent.futures import ThreadPoolExecutor

from scripts.chaoslab.brokers import has_mosquitto
from scripts.chaoslab.lab import Check, Lab, running
from scripts.chaoslab.waiting import pause, wait_until

_LONG, _SHORT = 34, 1
"""Kills of each of the three brokers."""
_CALIBRATOR_LONG, _CALIBRATOR_SHORT = 50, 2
_AGENTS = 3
_RECONNECT_S = 10.0


def kill_brokers(lab: Lab) -> list[Check]:
    """Kill each kind of broker 34 times (short form: once)."""
    kinds: list[tuple[str, dict[str, bool]]] = [("iotcore", {})]
    if has_mosquitto():
        kinds += [("mosquitto", {"persistence": False}), ("mosquitto", {"persistence": True})]
    with ThreadPoolExecutor(len(kinds)) as pool:
        futures = [pool.submit(_kill_one_kind, lab, kind, options) for kind, options in kinds]
        return [future.result() for future in futures]


def _kill_one_kind(lab: Lab, kind: str, options: dict[str, bool]) -> Check:
    kills = _LONG if lab.long else _SHORT
    broker = lab.broker(kind, **options)
    database = lab.calibrator(broker.url).database
    name = broker.name.replace(" ", "-")
    generator = random.Random(f"{lab.seed}/{name}")  # noqa: S311 - moments of faults
    devices = [lab.device(f"{name}-{n}", broker.url) for n in range(_AGENTS)]
    for device in devices:
        device.start()
    list(running(devices))
    for kill in range(kills):
        lab.progress(f"{broker.name}: {kill} of {kills} kills")
        pause(generator.uniform(0.1, 1.5))
        broker.kill()
        pause(generator.uniform(0.0, 1.0))
        broker.start()
        # Half of the kills hit while clients reconnect; before the others, one outbox has been acknowledged.
        wait_until(
            lambda: any((tick := device.last("tick")) and tick.waiting == 0 for device in devices),
            _RECONNECT_S if kill % 2 else 0.5,
        )
    balance = lab.settle(devices, database, timeout_s=120)
    failures = sum(device.failures() for device in devices)
    return Check(
        situation=lab.name,
        promise=f"{broker.name} is killed: no message is lost or counted twice, no inference fails",
        counted=f"{kills} kills; {balance}; {failures} inferences failed",
        kept=balance.exact and not failures and balance.samples > 0,
    )


def kill_calibrators(lab: Lab) -> list[Check]:
    """Kill the calibrator 50 times (short form: twice), between a commit and its acknowledgement with luck."""
    kills = _CALIBRATOR_LONG if lab.long else _CALIBRATOR_SHORT
    broker = lab.broker()
    calibrator = lab.calibrator(broker.url)
    devices = [lab.device(f"device-{n}", broker.url) for n in range(_AGENTS)]
    for device in devices:
        device.start()
    list(running(devices))
    for kill in range(kills):
        lab.progress(f"{kill} of {kills} kills")
        pause(lab.random.uniform(0.1, 1.5))
        calibrator.kill()
        pause(lab.random.uniform(0.0, 0.5))
        calibrator.start()
    balance = lab.settle(devices, calibrator.database, timeout_s=90)
    failures = sum(device.failures() for device in devices)
    return [
        Check(
            situation=lab.name,
            promise="the calibrator is killed: no message is lost or counted twice, no inference fails",
            counted=f"{kills} kills; {balance}; {failures} inferences failed",
            kept=balance.exact and not failures and balance.samples > 0,
        )
    ]
