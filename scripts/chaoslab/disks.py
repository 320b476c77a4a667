"""Disks that are full, read-only or lost while an agent runs: it goes on, says so, and recovers without a restart."""

import shutil
import time
from collections.abc import Callable

import msgspec

from scripts.chaoslab.lab import Check, Device, Lab, running
from scripts.chaoslab.mounts import AbortableDisk, SmallDisk, can_mount
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until
from scripts.chaoslab.watcher import Watcher

_HEALS_S = 3.0


class _Fault(msgspec.Struct, kw_only=True):
    """One disk and its fault."""

    name: str
    device: Device
    begin: Callable[[], object]
    end: Callable[[], object] | None
    """None: the disk does not recover."""
    at_start: bool = False
    """True: the fault begins before the agent starts."""
    heals: bool = False
    """True: the agent may recover before its state says anything."""
    problem: str = ""
    problem_s: float = 0.0
    recovery_s: float = 0.0
    progress: int = 0
    recovered: bool = False


def failing_disks(lab: Lab) -> list[Check]:
    """Let disks fail in several ways at the same time, one agent on each."""
    if (reason := can_mount()) is not None:
        return [Check(situation=lab.name, promise="inference goes on", counted=reason, kept=None)]
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    watcher = lab.watcher(broker.port)
    faults, skipped = _faults(lab, broker.url)
    devices = [fault.device for fault in faults]
    _begin(lab, faults, watcher)
    _end(lab, faults, watcher)
    # What is committed while there is no broker must survive SIGKILL: then the outbox is on the disk again.
    broker.kill()
    pause(1.0)
    for fault in faults:
        if fault.end is not None and fault.recovered:
            fault.device.kill()
    broker.start()
    for device in devices:
        if not device.alive:
            device.start()
    lab.drain(devices)
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
    started = time.monotonic()
    for fault in faults:
        limit_s = started + (_HEALS_S if fault.heals else GENEROUS_S) - time.monotonic()
        wait_until(lambda f=fault: _problems(watcher, f.device), limit_s)
        fault.problem = "; ".join(_problems(watcher, fault.device))
        fault.problem_s = time.monotonic() - started
    for fault in faults:
        wait_until(lambda f=fault: f.progress + _inferences(f.device) > 0, GENEROUS_S)
        fault.progress += _inferences(fault.device)
        if fault.end is not None:
            fault.end()
    lab.progress("the faults have ended")
    started = time.monotonic()
    for fault in faults:
        limit_s = started + GENEROUS_S - time.monotonic()
        fault.recovered = bool(wait_until(lambda f=fault: _recovered(watcher, f), limit_s))
        fault.recovery_s = time.monotonic() - started


def _faults(lab: Lab, url: str) -> tuple[list[_Fault], list[Check]]:
    disks = {name: SmallDisk(lab.folder / f"disk-{name}") for name in ("full", "full-at-start", "read-only")}
    for disk in disks.values():
        lab.on_exit(disk.unmount)
    devices = {name: lab.device(name, url, state_dir=disk.folder / "state") for name, disk in disks.items()}
    removed = lab.device("removed", url)
    faults = [
        _Fault(name="a full disk", device=devices["full"], begin=disks["full"].fill, end=disks["full"].free),
        _Fault(
            name="a disk that is full at the start",
            device=devices["full-at-start"],
            begin=disks["full-at-start"].fill,
            end=disks["full-at-start"].free,
            at_start=True,
        ),
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
            heals=True,
        ),
    ]
    name = "a disk that becomes read-only for good"
    try:
        abortable = AbortableDisk(lab.folder / "disk-abort")
    except OSError as error:
        skipped = Check(situation=lab.name, promise=f"{name}: inference goes on", counted=str(error), kept=None)
        return faults, [skipped]
    lab.on_exit(abortable.unmount)
    device = lab.device("abort", url, state_dir=abortable.folder / "state")
    return [*faults, _Fault(name=name, device=device, begin=abortable.abort, end=None)], []


def _check(lab: Lab, fault: _Fault, database: StoredDatabase, watcher: Watcher) -> Check:
    balance = lab.balance([fault.device], database, device=fault.device.name)
    failures = fault.device.failures()
    recovers = fault.end is not None
    if recovers and fault.recovered:
        wait_until(lambda: (state := watcher.state(fault.device.name)) and state.accepted == 1, GENEROUS_S)
    state = watcher.state(fault.device.name)
    accepted = 0 if state is None else state.accepted
    said = f"said so within {fault.problem_s:.0f} s" if fault.problem else "nothing in the state"
    recovery = f"recovered within {fault.recovery_s:.0f} s, " if fault.recovered else "did NOT recover, "
    return Check(
        situation=lab.name,
        promise=f"{fault.name}: inference goes on, the state says so, "
        f"{'the agent recovers without a restart, ' if recovers else ''}nothing is lost",
        counted=f"{fault.progress} inferences meanwhile, {failures} failed; {said}; "
        f"{recovery + f'accepted revision {accepted}; ' if recovers else ''}{balance}",
        kept=(
            fault.progress > 0
            and not failures
            and bool(fault.problem or fault.heals)
            and (not recovers or (fault.recovered and accepted == 1))
            and balance.exact
        ),
        notes=(f"{fault.name}: {fault.problem or 'no problem in the state'}",),
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
