"""`edgeexit agent`: run a bundle on a device, on replayed samples, with its line to the fleet."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from edgeexit.console import console, milliseconds, next_step, print_json, share

if TYPE_CHECKING:
    from edgeexit.agent import Agent, Stream

_log = logging.getLogger(__name__)

_STATUS_INTERVAL_S: Final = 10.0


def agent_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    config: Annotated[Path, typer.Option(help="Who this device is and where its broker is (TOML).")],
    stream: Annotated[Path, typer.Option(help="Samples to replay, shuffled and endless (.npz).")],
    rate: Annotated[float, typer.Option(min=0, help="Inferences a second; 0: one after the other.")] = 20.0,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds to run; default: until stopped.")] = None,
    broker: Annotated[str | None, typer.Option(help="Broker URL instead of the configured one.")] = None,
    device: Annotated[str | None, typer.Option(help="Device name instead of the configured one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing summary as JSON.")] = False,
) -> None:
    """Answer replayed samples under the fleet's policy; events go to standard error, Ctrl-C or SIGTERM ends it.

    A stream file that is replaced is picked up, so that drift can be played.

    Example: `edgeexit agent quickstart/bundle --config agent.toml --stream quickstart/test.npz --rate 50`
    """
    from edgeexit.agent import Agent, AgentConfig, Stream
    from edgeexit.bundle import Bundle

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr)
    settings = AgentConfig.load(config, broker=broker, device=device)
    opened = Bundle.open(bundle)
    samples = Stream(stream, opened.manifest)
    with _stop_signals() as stop, Agent(opened, settings) as agent:
        tally = _replay(agent, samples, rate=rate, duration_s=duration, stop=stop, exits=len(opened.manifest.exits))
        summary = tally.summary(agent)
    if as_json:
        print_json(summary)
        return
    console.print(
        f"{summary.answered:,} answered, {summary.failed:,} failed; "
        + ", ".join(f"{n} {share(r)}" for n, r in zip(opened.manifest.exits, summary.exit_rates, strict=True))
        + f"; mean latency {milliseconds(summary.mean_ms)}; revision {summary.revision} ({summary.policy})"
        + ("" if summary.accuracy is None else f"; accuracy {share(summary.accuracy)}")
    )
    next_step(f"edgeexit inspect {bundle}")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent did from start to stop."""

    answered: int
    failed: int
    exit_rates: tuple[float, ...]
    """[K] share of the answered samples that left at each exit; zeros where none was answered."""
    mean_ms: float | None
    accuracy: float | None
    """Share of right answers, where the stream has labels."""
    revision: int
    policy: str
    waiting: int
    """Reports and audits that the calibrator had not acknowledged when the agent was told to stop."""


class _Tally:
    """Counts what was answered."""

    def __init__(self, exits: int) -> None:
        self.exited = [0] * exits
        self.failed = 0
        self._total_ms = 0.0
        self._labelled = 0
        self._right = 0

    @property
    def answered(self) -> int:
        return sum(self.exited)

    def add(self, result: Any, labels: Any | None) -> None:
        self.exited[int(result.exits[0])] += 1
        self._total_ms += float(result.latency_ms[0])
        if labels is not None:
            self._labelled += 1
            self._right += int(result.answers[0] == labels[0])

    def summary(self, agent: Agent) -> Summary:
        revision, policy = agent.active
        return Summary(
            answered=self.answered,
            failed=self.failed,
            exit_rates=tuple(count / max(self.answered, 1) for count in self.exited),
            mean_ms=self._total_ms / self.answered if self.answered else None,
            accuracy=self._right / self._labelled if self._labelled else None,
            revision=revision,
            policy=policy.kind,
            waiting=agent.waiting,
        )


def _replay(
    agent: Agent, samples: Stream, *, rate: float, duration_s: float | None, stop: threading.Event, exits: int
) -> _Tally:
    """Answer samples at a rate until it is time to stop, with a status line every few seconds."""
    from edgeexit.agent.stream import ticks

    tally = _Tally(exits)
    status_due = time.monotonic() + _STATUS_INTERVAL_S
    last_error = ""
    for _ in ticks(rate, stop=stop, duration_s=duration_s):
        try:
            sample = samples.next_sample()
            tally.add(agent.infer(sample.inputs, labels=sample.labels), sample.labels)
        except Exception as error:  # noqa: BLE001 - the next sample may do; said once, not at every sample
            tally.failed += 1
            if (text := str(error)) != last_error:
                _log.error("no answer: %s", text)
                last_error = text
        if time.monotonic() >= status_due:
            status_due += _STATUS_INTERVAL_S
            _log.info("%s", _status(agent, tally))
    return tally


def _status(agent: Agent, tally: _Tally) -> str:
    summary = tally.summary(agent)
    mix = " ".join(share(rate) for rate in summary.exit_rates)
    return (
        f"{summary.answered} answered, exits {mix}, mean {milliseconds(summary.mean_ms)}, "
        f"revision {summary.revision} ({summary.policy}), {'online' if agent.connected else 'offline'}, "
        f"{summary.waiting} waiting"
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and Ctrl-C set; the second signal acts as it always does."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
