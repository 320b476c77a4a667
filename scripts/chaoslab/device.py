"""What runs in the process of an agent: inferences without a pause, and a ledger of what its outbox commits."""

import logging
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeexit.agent import Agent, AgentConfig
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.policy.active_policy import PolicySelector
from edgeexit.bundle import Bundle
from edgeexit.wire import Audit, Report
from scripts.chaoslab.ledger import Entry, LedgerFile, message_entry

_TICK_S = 0.05


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a device process runs."""

    bundle: Path
    config: AgentConfig
    ledger: Path
    log: Path
    rate: float = 40.0
    """Inferences per second, each of one sample."""
    kill_after_policy_s: float | None = None
    """The process is killed with SIGKILL this many seconds after a policy has arrived, by another process."""


def run_device(spec: DeviceSpec) -> None:
    """Run an agent until SIGTERM. SIGUSR1 pauses the inferences, so that the outbox can become empty."""
    stop, pause = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: pause.set())
    logging.basicConfig(filename=spec.log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    ledger = LedgerFile(spec.ledger)
    on_policy = None if spec.kill_after_policy_s is None else _arm_killer(spec.kill_after_policy_s)
    _watch_outbox(ledger)
    _watch_policies(ledger, on_policy)
    with Agent(Bundle.open(spec.bundle), spec.config) as agent:
        ledger.write(Entry(kind="ready", revision=agent.active.revision))
        _infer(agent, spec.rate, ledger, stop, pause)
    ledger.write(Entry(kind="ended"))


def _infer(agent: Agent, rate: float, ledger: LedgerFile, stop: threading.Event, pause: threading.Event) -> None:
    generator = np.random.default_rng()
    spec = agent.manifest.inputs[0]
    width = int(spec.shape[1])
    next_tick = due = time.monotonic()
    inferences = 0
    while not stop.is_set():
        now = time.monotonic()
        if now >= next_tick:
            next_tick = now + _TICK_S
            revision, waiting = agent.active.revision, agent.unacknowledged
            ledger.write(Entry(kind="tick", inferences=inferences, waiting=waiting, revision=revision))
        if not pause.is_set():
            try:
                agent.infer({spec.name: generator.standard_normal((1, width)).astype(np.float32)})
                inferences += 1
            except Exception as error:  # noqa: BLE001 - any failure is what the ledger must show
                ledger.write(Entry(kind="failed", text=f"{type(error).__name__}: {error}"))
        due = max(due + 1 / rate, now)
        time.sleep(max(min(due, next_tick) - time.monotonic(), 0) if pause.is_set() else max(due - now, 0))


def _watch_outbox(ledger: LedgerFile) -> None:
    """Write a line before and after each message that is committed."""
    add = Outbox.add

    def watched(self: Outbox, message: Report | Audit) -> Any:
        ledger.write(message_entry("adding", self.start, message))
        result = add(self, message)
        ledger.write(Entry(kind="added"))
        return result

    setattr(Outbox, "add", watched)  # noqa: B010 - mypy does not let a method be assigned


def _watch_policies(ledger: LedgerFile, on_policy: Callable[[], None] | None) -> None:
    """Write a line before and after each policy that is handled, and start the killer before."""
    receive = PolicySelector.receive

    def watched(self: PolicySelector, envelope: bytes) -> None:
        ledger.write(Entry(kind="arrived"))
        if on_policy is not None:
            on_policy()
        started = time.perf_counter()
        receive(self, envelope)
        ledger.write(Entry(kind="handled", revision=self.summary.accepted, seconds=time.perf_counter() - started))

    setattr(PolicySelector, "receive", watched)  # noqa: B010 - as above


def _arm_killer(delay_s: float) -> Callable[[], None]:
    """Return a function after whose first call another process kills this one.

    A thread of this process could not do it at any moment: it would wait for the interpreter's lock.
    """
    reader, writer = os.pipe()
    victim = os.getpid()
    if os.fork() == 0:
        os.close(writer)
        if os.read(reader, 8):  # empty when the victim has ended
            time.sleep(delay_s)
            if os.getppid() == victim:
                os.kill(victim, signal.SIGKILL)
        os._exit(0)
    os.close(reader)
    return lambda: os.write(writer, struct.pack("d", delay_s)) and None
