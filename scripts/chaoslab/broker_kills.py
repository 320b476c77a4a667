"""Brokers are killed with SIGKILL and started again, while agents and a calibrator continue."""

import random
from concurrent.futures import ThreadPoolExecutor

from scripts.chaoslab.brokers import has_mosquitto
from scripts.chaoslab.lab import Check, Lab, running
from scripts.chaoslab.waiting import pause, wait_until

_LONG, _SHORT = 34, 1
"""Kills of each of the three brokers."""
_AGENTS = 3
_RECONNECT_S = 10.0


def kill_brokers(lab: Lab) -> list[Check]:
    """Kill each kind of broker 34 times (short form: once)."""
    kinds: list[tuple[str, dict[str, bool]]] = [("iotcore", {})]
    if has_mosquitto():
        kinds += [("mosquitto", {"persistence": False}), ("mosquitto", {"persistence": True})]
    with ThreadPoolExecutor(len(kinds)) as pool:
        futures = [pool.submit(_kill_one_kind, lab, kind, options) for kind, options in kinds]
        return [check for future in futures for check in future.result()]


def _kill_one_kind(lab: Lab, kind: str, options: dict[str, bool]) -> list[Check]:
    kills = _LONG if lab.long else _SHORT
    broker = lab.broker(kind, **options)
    calibrator = lab.calibrator(broker.url)
    policies = lab.policies(calibrator.database, broker)
    name = broker.name.replace(" ", "-")
    generator = random.Random(f"{lab.seed}/{name}")  # noqa: S311 - moments of faults
    devices = [lab.device(f"{name}-{n}", broker.url) for n in range(_AGENTS)]
    for device in devices:
        device.start()
    list(running(devices))
    for kill in range(kills):
        lab.progress(f"{broker.name}: {kill} of {kills} kills")
        policies.renew()
        pause(generator.uniform(0.1, 1.5))
        broker.kill()
        pause(generator.uniform(0.0, 1.0))
        broker.start()
        # Half of the kills hit while clients reconnect; before the others, one outbox has been acknowledged.
        wait_until(
            lambda: any((tick := device.last("tick")) and tick.waiting == 0 for device in devices),
            _RECONNECT_S if kill % 2 else 0.5,
        )
    fault = f"{broker.name} is killed"
    return lab.fleet_checks(fault, f"{kills} kills", devices, policies)
