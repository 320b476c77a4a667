"""Agents are killed with SIGKILL at random moments, half of them while they take a new policy."""

import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from edgeexit.errors import EdgeExitError
from edgeexit.policies import decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import verify
from scripts.chaoslab.lab import Check, Device, Lab
from scripts.chaoslab.ledger import read_ledger
from scripts.chaoslab.watcher import Watcher, wait_until

_LONG: Final = 1000
_SHORT: Final = 20
_AGENTS: Final = 6
_MAX_LIFE_S: Final = 1.5
_ARRIVAL_S: Final = 20.0
_MAX_NOTES: Final = 8


def kill_agents(lab: Lab) -> list[Check]:
    """Kill agents 1,000 times (short form: 20 times)."""
    total = _LONG if lab.long else _SHORT
    broker = lab.broker()
    database = lab.calibrator(broker.url)
    watcher = lab.watcher(broker.port)
    devices = [lab.device(f"device-{n}", broker.url) for n in range(_AGENTS)]
    killer = _Killer(lab, watcher, total)
    lab.on_exit(killer.stop.set)
    threads = [threading.Thread(target=killer.kill_repeatedly, args=(device,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lab.progress(f"{killer.counts['kills']} of {total} kills")
        time.sleep(0.5)
    for device in devices:
        device.start()
    wait_until(lambda: False, 1)
    balance = lab.settle(devices, database, timeout_s=60)
    failures = sum(device.failures() for device in devices)
    counts, notes = killer.counts, (*killer.notes, *watcher.lower)[:_MAX_NOTES]
    done = counts["kills"] >= total
    return [
        Check(
            situation=lab.name,
            promise="no policy file is torn",
            counted=f"{counts['kills']} kills, {counts['handling']} while a policy was handled: {counts['torn']} torn",
            kept=done and not counts["torn"],
            notes=notes,
        ),
        Check(
            situation=lab.name,
            promise="the accepted revision never decreases",
            counted=f"{counts['lower']} lower on disk, {len(watcher.lower)} lower in states; "
            f"{counts['missed']} of {counts['policies']} policies did not arrive",
            kept=done and not counts["lower"] and not watcher.lower and not counts["missed"],
            notes=notes,
        ),
        Check(
            situation=lab.name,
            promise="no message is lost or counted twice",
            counted=str(balance),
            kept=done and balance.exact,
        ),
        Check(situation=lab.name, promise="no inference fails", counted=f"{failures} failed", kept=failures == 0),
    ]


class _Killer:
    """Kills devices, each in a thread of its own, and looks at their state folders after every kill."""

    def __init__(self, lab: Lab, watcher: Watcher, total: int) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.stop = threading.Event()
        self._watcher = watcher
        self._public = lab.key.public_key()
        self._turns = iter(range(total))
        self._seed = lab.random.random()
        self._lock = threading.Lock()

    def kill_repeatedly(self, device: Device) -> None:
        """Kill one device until all turns are taken."""
        generator = random.Random(f"{self._seed}/{device.name}")  # noqa: S311 - moments of faults
        revision = 0
        while not self.stop.is_set():
            with self._lock:
                if (turn := next(self._turns, None)) is None:
                    return
            known = max(self._watcher.accepted(device.name), _handled(device))
            arrived = True
            if turn % 2:
                revision += 1
                arrived = self._kill_with_policy(device, revision, generator)
            else:
                device.start()
                self.stop.wait(generator.uniform(0, _MAX_LIFE_S))
                device.kill()
            with self._lock:
                self.counts["kills"] += 1
                self.counts["policies"] += turn % 2
                if not arrived:
                    self.counts["missed"] += 1
                    self.notes.append(f"{device.name}: revision {revision} did not arrive in {_ARRIVAL_S:g} s")
                kinds = Counter(entry.kind for entry in device.entries())
                self.counts["handling"] += kinds["arrived"] > kinds["handled"]
                self._check_files(device, known)

    def _kill_with_policy(self, device: Device, revision: int, generator: random.Random) -> bool:
        """Publish a policy before or after a start; another process kills the agent shortly after the arrival."""
        delay_s = generator.choice([generator.uniform(0, 0.03), generator.uniform(0, 0.006)])
        retained = generator.choice([True, False])
        if retained:
            self._watcher.publish_policy(device.address, revision)
        device.start(kill_after_policy_s=delay_s)
        if not retained:
            wait_until(lambda: device.last("ready"), _ARRIVAL_S, every_s=0.02)
            self.stop.wait(generator.uniform(0, 0.4))
            self._watcher.publish_policy(device.address, revision)
        arrived = device.wait(_ARRIVAL_S)
        device.kill()
        return arrived

    def _check_files(self, device: Device, known: int) -> None:
        """Check that every policy file is complete, and that no revision known before the start is missing."""
        highest = 0
        for path in policy_files(device.state_dir):
            try:
                document = decode_document(verify(path.read_bytes(), payload_type=PAYLOAD_TYPE, keys=[self._public]))
            except (EdgeExitError, ValueError) as error:
                self.counts["torn"] += 1
                self.notes.append(f"{device.name}: '{path.name}': {error}")
            else:
                highest = max(highest, document.revision)
        if highest < known:
            self.counts["lower"] += 1
            self.notes.append(f"{device.name}: revision {highest} on disk, {known} was accepted")


def policy_files(state_dir: Path) -> list[Path]:
    """Return the files of accepted policies in a state folder."""
    return sorted(state_dir.glob("policy.*.json"))


def _handled(device: Device) -> int:
    """Return the highest revision that was active after a policy was handled, in the newest start."""
    if not device.ledgers:
        return 0
    return max((entry.revision for entry in read_ledger(device.ledgers[-1]) if entry.kind == "handled"), default=0)
