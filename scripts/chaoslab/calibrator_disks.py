"""The disk of the calibrator's SQLite file becomes full, or read-only, and works again."""

import signal

from scripts.chaoslab.calibrator import Calibrator
from scripts.chaoslab.lab import Check, Device, Lab, running, wait_until_empty
from scripts.chaoslab.mounts import AbortableDisk, SmallDisk, can_mount
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until

_LONG, _SHORT = 10, 1
_AGENTS = 3
_RATE = 50.0
_INTERVAL_S = 1.0
_OUTAGE = "pausing acknowledgements"


def failing_calibrator_disk(lab: Lab) -> list[Check]:
    """Let the disk fail 10 times in each way (short form: once)."""
    if (reason := can_mount()) is not None:
        return [Check(situation=lab.name, promise="the calibrator's disk fails", counted=reason, kept=None)]
    return [*_full(lab), *_read_only(lab)]


def _full(lab: Lab) -> list[Check]:
    """Fill the disk, free it, and kill the calibrator half of the times in between."""
    rounds = _LONG if lab.long else _SHORT
    disk = SmallDisk(lab.folder / "disk-full", size="32m")
    lab.on_exit(disk.unmount)
    broker = lab.broker()
    calibrator = lab.calibrator(broker.url, database=f"sqlite:///{disk.folder / 'calibrator.sqlite'}")
    policies = lab.policies(calibrator.database, broker)
    devices = _agents(lab, "full", broker.url)
    said = starts = 0
    for number in range(rounds):
        lab.progress(f"full disk: {number} of {rounds}")
        policies.renew()
        pause(lab.random.uniform(0.1, 1.5))
        disk.fill()
        said += bool(wait_until(lambda: _OUTAGE in calibrator.log or not calibrator.alive, GENEROUS_S))
        pause(lab.random.uniform(0.5, 2.0))
        killed = number % 2 == 0
        if killed:
            calibrator.kill()
            calibrator.launch()
            wait_until(lambda: calibrator.ready or not calibrator.alive, GENEROUS_S)
        disk.free()
        starts += _start_if_ended(calibrator)
        wait_until_empty(devices)
        calibrator.forget_log()
    fault = "the calibrator's disk is full"
    times = f"{rounds} times; {starts} starts after a start that failed on the full disk"
    checks = lab.fleet_checks(fault, times, devices, policies)
    calibrator.kill()
    return [*checks, _reported(lab, fault, said, rounds)]


def _read_only(lab: Lab) -> list[Check]:
    """Make the disk read-only, as a write error of a card does; then mount it again and start the calibrator."""
    rounds = _LONG if lab.long else _SHORT
    fault = "the calibrator's disk becomes read-only"
    try:
        disk = AbortableDisk(lab.folder / "disk-abort", megabytes=64)
    except OSError as error:
        return [Check(situation=lab.name, promise=fault, counted=str(error), kept=None)]
    lab.on_exit(disk.unmount)
    broker = lab.broker()
    calibrator = lab.calibrator(broker.url, database=f"sqlite:///{disk.folder / 'calibrator.sqlite'}")
    policies = lab.policies(calibrator.database, broker)
    devices = _agents(lab, "abort", broker.url)
    said = 0
    for number in range(rounds):
        lab.progress(f"read-only disk: {number} of {rounds}")
        policies.renew()
        pause(lab.random.uniform(0.1, 1.5))
        _abort_between_commits(disk, calibrator)
        said += bool(wait_until(lambda: _OUTAGE in calibrator.log, GENEROUS_S))
        pause(lab.random.uniform(0.5, 2.0))
        calibrator.kill()
        disk.repair()
        calibrator.start()
        wait_until_empty(devices)
    checks = lab.fleet_checks(fault, f"{rounds} times", devices, policies)
    return [*checks, _reported(lab, fault, said, rounds)]


def _abort_between_commits(disk: AbortableDisk, calibrator: Calibrator) -> None:
    """Make the disk read-only while the calibrator commits nothing.

    What is being committed at the moment of an abort may be lost by ext4, although fsync has succeeded and no call
    fails afterwards that would show it. SQLite alone loses its last transaction so; see docs/chaos.md.
    """
    calibrator.signal(signal.SIGSTOP)
    pause(0.2)
    disk.abort()
    calibrator.signal(signal.SIGCONT)


def _reported(lab: Lab, fault: str, said: int, rounds: int) -> Check:
    promise = f"{fault}: its log says so"
    return Check(situation=lab.name, promise=promise, counted=f"{said} of {rounds} times", kept=said == rounds)


def _agents(lab: Lab, name: str, url: str) -> list[Device]:
    devices = [lab.device(f"{name}-{n}", url, rate=_RATE, report_interval_s=_INTERVAL_S) for n in range(_AGENTS)]
    for device in devices:
        device.start()
    list(running(devices))
    return devices


def _start_if_ended(calibrator: Calibrator) -> bool:
    """Start a calibrator that could not start on the full disk, as a supervisor does; return whether it had ended."""
    if calibrator.alive:
        return False
    calibrator.start()
    return True
