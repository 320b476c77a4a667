"""Runs simulated devices against a broker: connects, reports at the requested rate, waits for acknowledgements."""

import asyncio
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgeexit.errors import ConfigError
from edgeexit.key_set import TrustedKeys
from edgeexit.simulate.connections import DeviceConnections
from edgeexit.simulate.counter_table import CounterTable
from edgeexit.simulate.director import FleetDirector
from edgeexit.simulate.gateway import BrokerAccess
from edgeexit.simulate.hostile_load import HostileLoad
from edgeexit.simulate.ledger import Ledger, Role
from edgeexit.simulate.member import FleetMember, identity_of, new_start
from edgeexit.simulate.model import SimulatedModel, Workload
from edgeexit.simulate.options import SimulationOptions
from edgeexit.simulate.virtual_agent import VirtualAgent
from edgeexit.wire import DeviceAddress

_CONNECTING: Final = 64
"""Attempts to connect at the same time."""
_READY_S: Final = 120.0
_TICK_S: Final = 0.005
_MAX_BLOCK: Final = 512
"""Devices that report at once."""
_GOODBYE_S: Final = 10.0


class LoadProgress(NamedTuple):
    """What a run has done so far."""

    phase: str
    """connecting, load, settling or comparing."""
    reports: int
    acknowledged: int
    waiting: int
    """Messages that are not answered."""
    seconds: float
    """Since the begin of the load."""


class FleetLoad:
    """The devices of a run and their connections.

    Args:
        options: size and load.
        model: the bundle.
        access: the broker.
        keys: the keys that may sign policies; None: no policies are received.
        on_progress: called about once per second.

    Attributes:
        ledger: what was sent and answered.
        members: all devices.
        director: what happens to them.
        hostile: the malicious devices.
        warm_up_s: time until the calibrator had answered the first report of each connection.
        cpu_s: CPU time of this process during the load.
        began: monotonic seconds of the begin of the load.
        ended: the same of its end, before the last acknowledgements.

    """

    def __init__(
        self,
        options: SimulationOptions,
        model: SimulatedModel,
        access: BrokerAccess,
        *,
        keys: TrustedKeys | None = None,
        on_progress: Callable[[LoadProgress], None] = lambda _: None,
    ) -> None:
        self.options = options
        self.model = model
        self.ledger = Ledger()
        self.workload = Workload(model, options.agents, seed=options.seed)
        self.table = CounterTable(options.agents, model.dataset.exits)
        self.began = self.ended = 0.0
        self.cpu_s = self.warm_up_s = 0.0
        self._access = access
        self._on_progress = on_progress
        self._shipped = self.workload.book.under(model.policy)
        self.members = self._all_members()
        source = random.Random(options.seed)  # noqa: S311 - a simulation
        self.director = FleetDirector(options.events, self.members, self.workload, source)
        self.hostile = HostileLoad(options, model, access, source)
        self._connections = DeviceConnections(
            options, model, access, ledger=self.ledger, book=self.workload.book, keys=keys
        )
        self._gateways = self._connections.connect_all(self.members) + self.hostile.gateways
        self._stopping = asyncio.Event()
        self._finishing = asyncio.Event()
        self._place = 0

    @property
    def connections(self) -> int:
        """Number of connections."""
        return len(self._gateways)

    @property
    def reconnects(self) -> int:
        """Number of connections that replaced one that had ended."""
        return sum(max(gateway.connects - 1, 0) for gateway in self._gateways)

    def stop(self) -> None:
        """End the load; acknowledgements are still awaited. Called again, it ends that, too."""
        if self._stopping.is_set():
            self._finishing.set()
        self._stopping.set()

    async def run(self) -> None:
        """Connect, send, and wait for the answers. Raises ConfigError if the broker is not reachable."""
        permit = asyncio.Semaphore(_CONNECTING)
        tasks = [asyncio.ensure_future(gateway.run(permit)) for gateway in self._gateways]
        housekeeping = asyncio.ensure_future(self._keep_house())
        try:
            await self._connect()
            await self._warm_up()
            self.ledger.begin_measurement()
            self.began = time.monotonic()
            cpu_s = time.process_time()
            await self._generate()
            self.cpu_s = time.process_time() - cpu_s
            self.ended = time.monotonic()
            await self._settle()
            await self._say_goodbye()
        finally:
            self.ended = self.ended or time.monotonic()
            housekeeping.cancel()
            for gateway in self._gateways:
                gateway.close()
            _, late = await asyncio.wait([*tasks, housekeeping], timeout=2)
            for task in late:
                task.cancel()

    def progress(self, phase: str) -> LoadProgress:
        """Return what has been done, and in which phase the run is."""
        return LoadProgress(
            phase=phase,
            reports=self.ledger.reports,
            acknowledged=self.ledger.acked_reports,
            waiting=self.ledger.waiting,
            seconds=time.monotonic() - self.began if self.began else 0.0,
        )

    async def _connect(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not all(gateway.is_ready for gateway in self._gateways):
            failed = next((gateway.failure for gateway in self._gateways if gateway.failure), None)
            if failed is not None and not any(gateway.connects for gateway in self._gateways):
                raise ConfigError(f"broker '{self._access.config.url}' is not reachable: {failed}")
            if time.monotonic() > deadline:
                ready = sum(gateway.is_ready for gateway in self._gateways)
                raise ConfigError(
                    f"broker '{self._access.config.url}' serves only {ready} of {len(self._gateways)} connections "
                    f"after {_READY_S:g} s ({failed or 'no answer'}); give fewer --connections"
                )
            if self._stopping.is_set():
                return
            await asyncio.sleep(_TICK_S)

    async def _warm_up(self) -> None:
        """Wait until the calibrator has taken the first states: it answers one report of each connection after them."""
        began = time.monotonic()
        last = {id(member.gateway): member for member in self.members if member.may_report}
        if last and not self._stopping.is_set():
            self._report(list(last.values())[: self.options.reports], began)
        deadline = began + self.options.settle_s
        while self.ledger.waiting and time.monotonic() < deadline and not self._stopping.is_set():  # noqa: ASYNC110 - cheap
            await asyncio.sleep(_TICK_S)
        self.warm_up_s = time.monotonic() - began

    async def _generate(self) -> None:
        options, reports_per_s = self.options, self.options.reports_per_s
        credit, since = 0.0, self.began
        while not self._stopping.is_set():
            now = time.monotonic()
            if options.duration_s is not None and now - self.began >= options.duration_s:
                return
            self.director.step(now, load_s=now - self.began, step_s=now - since)
            self.hostile.step(now)
            room = options.in_flight - self.ledger.waiting
            if options.reports is not None:
                room = min(room, options.reports - self.ledger.reports)
                if options.reports <= self.ledger.reports:
                    return
            if reports_per_s:
                # What could not be sent in time is not made up for, so that a pause does not end in a burst.
                credit = min(credit + (now - since) * reports_per_s, max(reports_per_s, _MAX_BLOCK))
                room = min(room, int(credit))
            since = now
            members = self._next_members(min(room, _MAX_BLOCK))
            if members:
                self._report(members, now)
                credit -= len(members)
            await asyncio.sleep(0 if len(members) == _MAX_BLOCK else _TICK_S)

    def _next_members(self, count: int) -> list[FleetMember]:
        """Return up to `count` devices whose turn it is, in the order of their connections."""
        found: list[FleetMember] = []
        for _ in range(len(self.members)):
            if len(found) >= count:
                break
            member = self.members[self._place]
            self._place = (self._place + 1) % len(self.members)
            if member.may_report:
                found.append(member)
        return found

    def _report(self, members: Sequence[FleetMember], now: float) -> None:
        """Let devices run samples, and report them."""
        drawn = self.workload.draw(len(members), self.options.samples_per_report)
        fractions = np.array([[member.agent.audit_fraction] for member in members])
        audited = self.workload.random.random(drawn.shape) < fractions
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, member in enumerate(members):
            groups[id(member.agent.samples)].append(place)
        rows = np.array([member.agent.row for member in members])
        counted: dict[int, list[int]] = {}
        for places in groups.values():
            samples = members[places[0]].agent.samples
            counts = self.workload.count(self.table, rows[places], drawn[places], samples)
            counted.update(zip(places, counts.tolist(), strict=True))
        for place, sample in zip(*np.nonzero(audited), strict=True):
            members[place].agent.draw_audit(int(drawn[place, sample]))
        for place, member in enumerate(members):
            member.send(member.agent.report(counted[place], now), now)
        for place in np.unique(np.nonzero(audited)[0]).tolist():
            audit = members[place].agent.audit()
            if audit is not None:
                members[place].send(audit, now)

    async def _settle(self) -> None:
        now = time.monotonic()
        self.director.end(now)
        deadline = now + self.options.settle_s
        while self.ledger.waiting and time.monotonic() < deadline and not self._finishing.is_set():  # noqa: ASYNC110 - cheap
            await asyncio.sleep(_TICK_S)

    async def _say_goodbye(self) -> None:
        """Publish the last states, also of devices that are just connecting again."""
        now = time.monotonic()
        while time.monotonic() < now + _GOODBYE_S and not all(one.is_ready for one in self._gateways):  # noqa: ASYNC110 - cheap
            await asyncio.sleep(_TICK_S)
        for member in self.members:
            if member.is_active:
                member.publish_state(now, online=False)
        while time.monotonic() < now + _GOODBYE_S and not all(one.idle for one in self._gateways):  # noqa: ASYNC110 - cheap
            await asyncio.sleep(_TICK_S)

    async def _keep_house(self) -> None:
        """Send again what nobody answers, keep connections alive, and report progress."""
        carriers: dict[str, FleetMember] = {}
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for gateway in self._gateways:
                gateway.ping(now)
            due = list(self.ledger.due(now - self.options.resend_s))
            if due and not carriers:
                carriers = {member.agent.sent.address.device: member for member in self.members}
            for message in due:
                carriers[message.owner.address.device].transmit(message, now)
            phase = "settling" if self.ended else "load" if self.began else "connecting"
            self._on_progress(self.progress(phase))

    def _all_members(self) -> list[FleetMember]:
        """Return the devices, those that join later, and the clones: two agents of each name."""
        options = self.options
        own = options.devices + options.standby
        names = [f"{options.prefix}-{row:05d}" for row in range(own)]
        members = [self._member(row, name, "device") for row, name in enumerate(names)]
        for member in members[options.devices :]:
            member.is_active = False
        clones = [f"{options.prefix}-clone-{number // 2:05d}" for number in range(2 * options.events.clones)]
        return members + [self._member(own + number, name, "clone") for number, name in enumerate(clones)]

    def _member(self, row: int, name: str, role: Role) -> FleetMember:
        options = self.options
        address = DeviceAddress(options.fleet, f"s{zlib.crc32(name.encode()) % options.shards}", name)
        agent = VirtualAgent(
            self.ledger.open_start(address, new_start(), role),
            row,
            self.table,
            bundle=self.model.bundle,
            cohort=options.cohort,
            key=identity_of(options.seed, name),
            shipped=self._shipped,
            audit_fraction=options.audit_fraction,
            started=time.monotonic(),
        )
        return FleetMember(agent, self.ledger)
