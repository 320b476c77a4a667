"""PostgreSQL is killed, restarted, frozen, and cut off by a proxy, while agents and a calibrator continue."""

from collections import Counter
from collections.abc import Callable

from scripts.chaoslab.lab import Check, Lab, running, wait_until_empty
from scripts.chaoslab.postgres import new_database, why_no_postgres
from scripts.chaoslab.proxy import Proxy
from scripts.chaoslab.waiting import pause
from tests.postgres import Postgres

_LONG, _SHORT = 7, 1
"""Rounds; each round has every fault once."""
_AGENTS = 3
_RATE = 50.0
_INTERVAL_S = 1.0


def kill_postgres(lab: Lab) -> list[Check]:
    """End and cut off the database 42 times, half of them at the server (short form: 6 times)."""
    if (reason := why_no_postgres()) is not None:
        return [Check(situation=lab.name, promise="PostgreSQL is killed", counted=reason, kept=None)]
    server = lab.postgres()
    proxy = Proxy(server.port, lab.random, is_mqtt=False)
    lab.on_exit(proxy.close)
    url = new_database(server)
    broker = lab.broker()
    behind_proxy = url.replace(f":{server.port}/", f":{proxy.port}/")
    calibrator = lab.calibrator(broker.url, database=behind_proxy, stored=url)
    policies = lab.policies(calibrator.database, broker)
    devices = [lab.device(f"device-{n}", broker.url, rate=_RATE, report_interval_s=_INTERVAL_S) for n in range(_AGENTS)]
    load = lab.simulated_load(broker.url, calibrator.database)
    for device in devices:
        device.start()
    list(running(devices))
    load.wait_for_load()
    faults = [fault for _ in range(_LONG if lab.long else _SHORT) for fault in _FAULTS]
    for number, name in enumerate(faults):
        lab.progress(f"{number} of {len(faults)} faults: {name}")
        policies.renew()
        pause(lab.random.uniform(0.1, 1.5))
        _FAULTS[name](lab, server, proxy)
        wait_until_empty(devices)
        if not calibrator.alive:
            raise RuntimeError(f"the calibrator has ended:\n{calibrator.log[-2000:]}")
    counts = Counter(faults)
    times = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return [
        lab.load_check("PostgreSQL fails", load),
        *lab.fleet_checks("PostgreSQL fails", times, devices, policies, device="device-%"),
        Check(
            situation=lab.name,
            promise="PostgreSQL fails: the calibrator recovers without a restart, and no row collides with another",
            counted=f"{calibrator.log.count('UniqueViolation')} UniqueViolation, "
            f"{calibrator.log.count('DeadlockDetected')} deadlocks in its log",
            kept=calibrator.alive and not any(word in calibrator.log for word in ("UniqueViolation", "Deadlock")),
        ),
    ]


def _kill(lab: Lab, server: Postgres, _proxy: Proxy) -> None:
    server.kill()
    pause(lab.random.uniform(0.0, 2.0))
    server.start()


def _restart(_lab: Lab, server: Postgres, _proxy: Proxy) -> None:
    server.restart()


def _crash(_lab: Lab, server: Postgres, _proxy: Proxy) -> None:
    server.restart("immediate")


def _freeze(lab: Lab, server: Postgres, _proxy: Proxy) -> None:
    with server.frozen():
        pause(lab.random.uniform(0.5, 3.0))


def _cut(lab: Lab, _server: Postgres, proxy: Proxy) -> None:
    proxy.cut(silently=False)
    pause(lab.random.uniform(0.1, 2.0))
    proxy.recover(reset_frozen=True)


def _cut_silently(lab: Lab, _server: Postgres, proxy: Proxy) -> None:
    proxy.cut(silently=True)
    pause(lab.random.uniform(0.5, 3.0))
    proxy.recover(reset_frozen=True)


_FAULTS: dict[str, Callable[[Lab, Postgres, Proxy], None]] = {
    "kill": _kill,
    "restart": _restart,
    "crash": _crash,
    "freeze": _freeze,
    "reset by a proxy": _cut,
    "silent cut": _cut_silently,
}
