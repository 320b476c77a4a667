"""Devices that claim nonsense: clocks, a clone, an unknown bundle, a forger, an unknown device."""

from datetime import datetime, timezone

import numpy as np
from edgeexit_calibration import open_database
from edgeexit_calibration.service.device_actions import approve_device

from scripts.chaoslab.lab import Check, Device, Lab, running
from scripts.chaoslab.ledger import compare
from scripts.chaoslab.played_device import PlayedDevice, edited
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, wait_until

_LONG, _SHORT = 500, 10
"""Messages of each device."""
_AGENTS = 2
_UPTIMES_S = (0.0, 1e9, 1e300, 5.0, 1e15, 1e-9)
_INVALID: tuple[dict[str, object], ...] = (
    {"uptime_s": -1},
    {"uptime_s": "long"},
    {"uptime_s": None},
    {"revision": 2**60},
    {"exits": []},
    {"sequence": 1.5},
)
"""Fields of invalid reports."""


def claim_nonsense(lab: Lab) -> list[Check]:
    """Send messages with absurd or invalid content among those of good agents."""
    broker = lab.broker()
    calibrator = lab.calibrator(broker.url)
    database = calibrator.database
    policies = lab.policies(database, broker)
    agents = [lab.device(f"good-{n}", broker.url) for n in range(_AGENTS)]
    for agent in agents:
        agent.start()
    list(running(agents))
    wait_until(lambda: database.messages("good-0").samples, GENEROUS_S)  # so that the key of the first one is enrolled
    played = _Played(lab, broker.port)
    shown = bool(wait_until(lambda: played.show_twins() or database.events("clone"), GENEROUS_S, every_s=0.5))
    messages = _LONG if lab.long else _SHORT
    for number in range(messages):
        lab.progress(f"{number} of {messages} messages of each device")
        played.send(number)
    checks = lab.fleet_checks("nonsense", f"{messages} messages of each device", agents, policies, device="good-%")
    return [*checks, *_checks(lab, database, played, agents, shown=shown), *_unknown_device(lab)]


class _Played:
    """The devices that claim nonsense."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._generator = np.random.default_rng(lab.random.randrange(2**32))
        self.future = self._device(lab, port, "future")
        self.twins = (self._device(lab, port, "twin"), self._device(lab, port, "twin", "b" * 16))
        self.other_bundle = self._device(lab, port, "other-bundle", bundle="f" * 64)
        self.forger = self._device(lab, port, "good-0", "c" * 16)
        self.invalid = self._device(lab, port, "invalid")
        self._uptime_s = 0.0

    def show_twins(self) -> None:
        """Publish a newer state of each twin. Their connections are two, so the order of arrival is not certain."""
        self._uptime_s += 10.0
        for twin in self.twins:
            twin.state(uptime_s=self._uptime_s)

    @staticmethod
    def _device(lab: Lab, port: int, name: str, start: str = "a" * 16, *, bundle: str = "") -> PlayedDevice:
        device = PlayedDevice(
            port,
            name,
            bundle=bundle or lab.bundle.digest,
            start=start,
            exits=len(lab.bundle.manifest.stages),
            ledger=lab.folder / f"played-{name}-{start}.jsonl",
        )
        lab.on_exit(device.close)
        return device

    def send(self, number: int) -> None:
        """Send one message of each."""
        self.future.report(uptime_s=_UPTIMES_S[number % len(_UPTIMES_S)])
        twin = self.twins[number % 2]
        twin.report(uptime_s=30.0 + number)
        twin.audit(1, self._generator)
        self.other_bundle.report(uptime_s=number)
        self.forger.audit(1, self._generator)
        report = self.invalid.report(uptime_s=number)
        changes = {"sequence": report.sequence + 2**40, **_INVALID[number % len(_INVALID)]}
        self.invalid.send_raw("report", [edited(report, **changes), b"{", b"\xff" * 1000])


def _checks(lab: Lab, database: StoredDatabase, played: _Played, agents: list[Device], *, shown: bool) -> list[Check]:
    found = []
    for what, devices in (
        ("clocks that jump into the future and back", [played.future]),
        ("a clone", list(played.twins)),
        ("an unknown bundle", [played.other_bundle]),
        ("a device that also sends invalid messages", [played.invalid]),
    ):
        name = devices[0].name
        balance = compare([device.ledger for device in devices], database, device=name)
        promise = f"{what}: what is answered is stored, once"
        counted = f"{balance}; {sum(len(device.refused) for device in devices)} refused"
        found.append(Check(situation=lab.name, promise=promise, counted=counted, kept=balance.exact))
    counting = [*(agent.name for agent in agents), played.future.name, played.invalid.name]
    cohort = database.cohort_counts(lab.bundle.digest, "default")
    expected = database.series_counts(counting)
    drops = database.drops("invalid")
    return [
        *found,
        Check(
            situation=lab.name,
            promise="a clone is shown, and counts in no total of its cohort; neither does an unknown bundle",
            counted=f"{'shown' if shown else 'not shown'}; the total of the cohort is "
            f"{'that' if cohort == expected else 'NOT that'} of the other devices",
            kept=shown and bool(cohort) and cohort == expected,
        ),
        Check(
            situation=lab.name,
            promise="a forger's audits are refused, and invalid messages are counted as such",
            counted=f"{len(played.forger.refused)} audits refused; dropped {drops}",
            kept=bool(played.forger.refused) and not played.forger.acknowledged and bool(drops),
        ),
    ]


def _unknown_device(lab: Lab) -> list[Check]:
    """Let a device that nobody has approved report: it counts from its approval on."""
    broker = lab.broker()
    database = lab.calibrator(broker.url, options=("--enrolment", "approve")).database
    lab.policies(database, broker)
    generator = np.random.default_rng(lab.random.randrange(2**32))
    stranger = _Played._device(lab, broker.port, "stranger")  # noqa: SLF001 - of this module
    stranger.state(uptime_s=1.0)
    stranger.report(uptime_s=1.0)
    stranger.audit(3, generator)
    before = database.cohort_counts(lab.bundle.digest, "default")
    refused = len(stranger.refused)
    opened = open_database(database.url)
    approve_device(opened, "stranger", None, user="chaos", now=datetime.now(timezone.utc))
    opened.close()
    known = database.series_counts(["stranger"])
    stranger.report(uptime_s=2.0)
    stranger.audit(3, generator)
    now = database.series_counts(["stranger"])
    after = database.cohort_counts(lab.bundle.digest, "default")
    gained = [new - old for new, old in zip(now, known or [0] * len(now), strict=True)]
    balance = compare([stranger.ledger], database, device="stranger")
    return [
        Check(
            situation=lab.name,
            promise="an unknown device counts in no total before its approval, and from then on",
            counted=f"{sum(before)} counted before, {sum(after)} of {sum(gained)} afterwards; {refused} audits refused "
            f"before; {balance}",
            kept=not any(before) and bool(after) and after == gained and refused == 1 and balance.exact,
        )
    ]
