"""Disks that are full, read-only or lost while an agent runs: it goes on, says so, and recovers without a restart."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from scripts.chaoslab.lab import Check, Device, Lab, running
from scripts.chaoslab.mounts import AbortableDisk, SmallDisk, can_mount
from scripts.chaoslab.watcher import Watcher, wait_until

_PROBLEM_S = 12.0
_RECOVERY_S = 40.0


class _Fault(msgspec.Struct, kw_only=True):
    """One disk and its fault."""

    name: str
    device: Device
    begin: Callable[[], object]
    end: Callable[[], object] | None
    """None: the disk does not recover."""
    at_start: bool = False
    """True: the fault begins before the agent starts."""
    problem: str = ""
    progress: int = 0
    recovered: bool = False


def failing_disks(lab: Lab) -> list[Check]:
    """Let disks fail in several ways at the same time, one agent on each."""
    if (reason := can_mount()) is not None:
        return [Check(situation=lab.name, promise="inference goes on", counted=reason, kept=None)]
    broker = lab.broker()
    database = lab.calibrator(broker.url)
    watcher = lab.watcher(broker.port)
    faults, skipped = _faults(lab, broker.url)
    devices = [fault.device for fault in faults]
    _begin(lab, faults, watcher)
    _end(lab, faults, watcher)
    # What is committed while there is no broker must survive SIGKILL: then the outbox is on the disk again.
    broker.kill()
    wait_until(lambda: False, 1.0)
    for fault in faults:
        if fault.end is not None and fault.recovered:
            fault.device.kill()
    broker.start()
    for device in devices:
        if not device.alive:
            device.start()
    lab.settle(devices, database, timeout_s=60)
    return [_check(lab, fault, database, watcher) for fault in faults] + skipped


def _begin(lab: Lab, faults: list[_Fault], watcher: Watcher) -> None:
    """Start the agents, let the disks fail, and publish a policy that cannot be stored now."""
    for fault in faults:
        fault.device.start()
        if fault.at_start:
            list(running([fault.device]))
            fault.device.kill()
            fault.begin()
            fault.device.start()
    list(running([fault.device for fault in faults]))
    lab.progress("the faults begin")
    for fault in faults:
        if not fault.at_start:
            fault.begin()
        fault.progress = -_inferences(fault.device)
        watcher.publish_policy(fault.device.address, 1)


def _end(lab: Lab, faults: list[_Fault], watcher: Watcher) -> None:
    """Wait until the states report the faults, end the faults, and wait until the agents have recovered."""
    deadline = time.monotonic() + _PROBLEM_S
    for fault in faults:
        wait_until(lambda f=fault: _problems(watcher, f.device), deadline - time.monotonic())
        fault.problem = "; ".join(_problems(watcher, fault.device))
    wait_until(lambda: False, 1)
    for fault in faults:
        fault.progress += _inferences(fault.device)
        if fault.end is not None:
            fault.end()
    lab.progress("the faults have ended")
    deadline = time.monotonic() + _RECOVERY_S
    for fault in faults:
        fault.recovered = bool(wait_until(lambda f=fault: _recovered(watcher, f), deadline - time.monotonic()))


def _faults(lab: Lab, url: str) -> tuple[list[_Fault], list[Check]]:
    disks = {name: SmallDisk(lab.folder / f"disk-{name}") for name in ("full", "read-only")}
    for disk in disks.values():
        lab.on_exit(disk.unmount)
    devices = {name: lab.device(name, url, state_dir=disk.folder / "state") for name, disk in disks.items()}
    removed = lab.device("removed", url)
    faults = [
        _Fault(name="a full disk", device=devices["full"], begin=disks["full"].fill, end=disks["full"].free),
        _Fault(
            name="a read-only disk",
            device=devices["read-only"],
            begin=lambda: disks["read-only"].set_read_only(True),
            end=lambda: disks["read-only"].set_read_only(False),
            at_start=True,
        ),
        _Fault(
            name="a state folder that is removed",
            device=removed,
            begin=lambda: shutil.rmtree(removed.state_dir, ignore_errors=True),
            end=lambda: removed.state_dir.mkdir(mode=0o700, exist_ok=True),
        ),
    ]
    name = "a disk that becomes read-only for good"
    try:
        disk = AbortableDisk(lab.folder / "disk-abort")
    except OSError as error:
        skipped = Check(situation=lab.name, promise=f"{name}: inference goes on", counted=str(error), kept=None)
        return faults, [skipped]
    lab.on_exit(disk.unmount)
    device = lab.device("abort", url, state_dir=disk.folder / "state")
    return [*faults, _Fault(name=name, device=device, begin=disk.abort, end=None)], []


def _check(lab: Lab, fault: _Fault, database: Path, watcher: Watcher) -> Check:
    balance = lab.balance([fault.device], database, device=fault.device.name)
    failures = fault.device.failures()
    recovers = fault.end is not None
    rest = "recovers without a restart, and nothing is lost" if recovers else "and nothing is lost"
    state = watcher.state(fault.device.name)
    accepted = 0 if state is None else state.accepted
    return Check(
        situation=lab.name,
        promise=f"{fault.name}: inference goes on, the state says so, {rest}",
        counted=(
            f"{fault.progress} inferences meanwhile, {failures} failed; "
            f"{'state: ' + fault.problem if fault.problem else 'no problem in the state'}; "
            f"{('recovered' if fault.recovered else 'NOT recovered') if recovers else 'not expected to recover'}; "
            f"accepted revision {accepted}; {balance}"
        ),
        kept=(
            fault.progress > 0
            and not failures
            and bool(fault.problem)
            and (fault.recovered or not recovers)
            and balance.exact
            and accepted == 1
        ),
    )


def _problems(watcher: Watcher, device: Device) -> tuple[str, ...]:
    state = watcher.state(device.name)
    return () if state is None else state.problems


def _recovered(watcher: Watcher, fault: _Fault) -> bool:
    if fault.end is None:
        return True
    state = watcher.state(fault.device.name)
    on_disk = (fault.device.state_dir / "outbox.db").exists()
    return state is not None and state.online and not state.problems and state.accepted == 1 and on_disk


def _inferences(device: Device) -> int:
    tick = device.last("tick")
    return 0 if tick is None else tick.inferences
