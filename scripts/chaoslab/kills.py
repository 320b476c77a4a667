"""Agents are killed with SIGKILL at random moments, half of them while they take a new policy."""

import contextlib
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from edgeexit.agent.checked_file import read_checked
from edgeexit.agent.policy.store import SlotRecord
from edgeexit.errors import EdgeExitError
from edgeexit.policies import decode_document
from edgeexit.policies.document import PAYLOAD_TYPE
from edgeexit.signing import verify
from scripts.chaoslab.lab import Check, Device, Lab
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until
from scripts.chaoslab.watcher import Watcher

_LONG: Final = 1000
_SHORT: Final = 20
_AGENTS: Final = 6
_MAX_LIFE_S: Final = 1.5
_MAX_NOTES: Final = 8


def kill_agents(lab: Lab) -> list[Check]:
    """Kill agents 1,000 times (short form: 20 times)."""
    total = _LONG if lab.long else _SHORT
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    watcher = lab.watcher(broker.port)
    devices = [lab.device(f"device-{n}", broker.url) for n in range(_AGENTS)]
    killer = _Killer(lab, watcher, total)
    threads = [threading.Thread(target=killer.kill_repeatedly, args=(device,), daemon=True) for device in devices]
    for thread in threads:
        lab.on_exit(thread.join)
    lab.on_exit(killer.stop.set)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lab.progress(f"{killer.counts['kills']} of {total} kills")
        pause(0.5)
    for device in devices:
        device.start()
    if not wait_until(lambda: any(device.last("handled") for device in devices), GENEROUS_S):
        raise RuntimeError("no agent has handled the retained policy of its last start; see agent.log")
    balance = lab.settle(devices, database)
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
            counted=f"{counts['lower']} lower on disk, {len(watcher.lower)} lower in states",
            kept=done and not counts["lower"] and not watcher.lower,
            notes=notes,
        ),
        Check(
            situation=lab.name,
            promise="a published policy arrives",
            counted=f"{counts['missed']} of {counts['policies']} did not",
            kept=done and not counts["missed"],
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
        self._handling_s = 0.02
        """How long the last policy took that was handled without a kill."""

    def kill_repeatedly(self, device: Device) -> None:
        """Kill one device until all turns are taken, or the command is interrupted."""
        with contextlib.suppress(InterruptedError):
            self._kill_repeatedly(device)

    def _kill_repeatedly(self, device: Device) -> None:
        generator = random.Random(f"{self._seed}/{device.name}")  # noqa: S311 - moments of faults
        revision = 0
        while not self.stop.is_set():
            with self._lock:
                if (turn := next(self._turns, None)) is None:
                    return
            arrived = True
            if turn % 2:
                revision += 1
                arrived = self._kill_with_policy(device, revision, generator)
            else:
                device.start()
                if generator.choice([True, False]):  # else it may be killed while it starts
                    wait_until(lambda: device.ready, GENEROUS_S, every_s=0.02)
                self.stop.wait(generator.uniform(0, _MAX_LIFE_S))
                device.kill()
            with self._lock:
                self.counts["kills"] += 1
                self.counts["policies"] += turn % 2
                if not arrived:
                    self.counts["missed"] += 1
                    self.notes.append(f"{device.name}: revision {revision} did not arrive in {GENEROUS_S:g} s")
                kinds = Counter(entry.kind for entry in device.entries())
                self.counts["handling"] += kinds["arrived"] > kinds["handled"]
                handled = [entry for entry in device.entries() if entry.kind == "handled"]
                if handled:
                    self._handling_s = handled[-1].seconds
                known = max(self._watcher.accepted(device.name), *(entry.revision for entry in handled), 0)
                self._check_files(device, known)

    def _kill_with_policy(self, device: Device, revision: int, generator: random.Random) -> bool:
        """Publish a policy before or after a start; another process kills the agent shortly after the arrival."""
        delay_s = generator.uniform(0, generator.choice([0.03, self._handling_s]))
        retained = generator.choice([True, False])
        if retained:
            self._watcher.publish_policy(device.address, revision)
        device.start(kill_after_policy_s=delay_s)
        if not retained:
            wait_until(lambda: device.ready, GENEROUS_S, every_s=0.02)
            self.stop.wait(generator.uniform(0, 0.4))
            self._watcher.publish_policy(device.address, revision)
        arrived = device.wait(GENEROUS_S)
        device.kill()
        return arrived

    def _check_files(self, device: Device, known: int) -> None:
        """Check that every file of the policy store is complete, and that they hold the highest accepted revision."""
        highest = 0
        for path in sorted(device.state_dir.glob("*.json")):
            try:
                highest = max(highest, self._revision_in(path))
            except (EdgeExitError, OSError, ValueError) as error:  # noqa: PERF203 - a few files
                self.counts["torn"] += 1
                self.notes.append(f"{device.name}: '{path.name}': {error}")
        if highest < known:
            self.counts["lower"] += 1
            self.notes.append(f"{device.name}: revision {highest} on disk, {known} was accepted")

    def _revision_in(self, path: Path) -> int:
        """Return the revision that a file of the policy store holds; 0 for the files of other parts of the agent."""
        kind = path.name.partition(".")[0]
        if kind == "accepted":
            record = read_checked(path, SlotRecord)
            return 0 if record is None else record.accepted
        if kind in {"policy", "last_good"}:
            return decode_document(verify(path.read_bytes(), payload_type=PAYLOAD_TYPE, keys=[self._public])).revision
        msgspec.json.decode(path.read_bytes())
        return 0
