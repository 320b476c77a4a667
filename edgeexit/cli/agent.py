"""`edgeexit agent`: run a bundle on a device, for clients or on replayed samples, with its line to the fleet."""

from __future__ import annotations

import gc
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from edgeexit.console import console, next_step, print_json
from edgeexit.errors import ConfigError
from edgeexit.formatting import milliseconds, percent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeexit.agent import Agent, SampleStream
    from edgeexit.agent.systemd import Notifier
    from edgeexit.runtime import Inference

_log = logging.getLogger(__name__)

_STATUS_INTERVAL_S: Final = 10.0


def agent_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    config: Annotated[Path, typer.Option(help="Who this device is and where its broker is (TOML).")],
    stream: Annotated[
        Path | None, typer.Option(help="Samples to replay, shuffled and endless (.npz); default: serve clients.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Replayed inferences a second; 0: one after the other.")] = 20.0,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds to run; default: until stopped.")] = None,
    broker: Annotated[str | None, typer.Option(help="Broker URL instead of the configured one.")] = None,
    device: Annotated[str | None, typer.Option(help="Device name instead of the configured one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing summary as JSON.")] = False,
) -> None:
    """Serve a bundle on this device under the fleet's policy, or replay samples; Ctrl-C or SIGTERM ends it cleanly.

    As a service it answers clients that speak the Open Inference Protocol, on http://127.0.0.1:8080 unless the
    configuration's [endpoint] says otherwise, and tells systemd how it is. With --stream it answers the samples of a
    file; a file that is replaced is picked up, so that drift can be played. Events go to standard error.

    Examples: `edgeexit agent mybundle --config agent.toml`,
    `edgeexit agent quickstart/bundle --config agent.toml --stream quickstart/test.npz --rate 50`
    """
    from edgeexit.agent import Agent, AgentConfig, SampleStream
    from edgeexit.agent.service import listening, serving
    from edgeexit.agent.systemd import Notifier
    from edgeexit.bundle import Bundle

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr)
    logging.getLogger("tornado").setLevel(logging.WARNING)  # it tells of every malformed request
    settings = AgentConfig.load(config, broker=broker, device=device)
    if stream is None and settings.endpoint.enabled is False:
        raise ConfigError(f"config file '{config}': endpoint.enabled is false and no --stream is given: nobody can ask")
    opened = Bundle.open(bundle)
    if opened.manifest.build_config is not None:
        from edgeexit.backends.tensorrt.engines import build_missing_plans

        build_missing_plans(opened, on_stage=lambda name: _log.info("building the plan of %s; it is kept", name))
    samples = None if stream is None else SampleStream(stream, opened.manifest)
    notifier = Notifier()
    tally = _Tally()
    on = samples is None
    with (
        _stop_signals() as stop,
        listening(settings.endpoint, by_default=on) as sockets,
        Agent(opened, settings) as agent,
        serving(agent, settings.endpoint, by_default=on, notifier=notifier, sockets=sockets),
    ):
        gc.collect()
        gc.freeze()  # what is open stays; to go through it again and again takes tens of milliseconds
        status = _Status(agent, tally, notifier)
        if samples is None:
            _serve(status, duration_s=duration, stop=stop)
        else:
            _replay(agent, samples, tally, rate=rate, duration_s=duration, stop=stop, on_sample=status.tell_if_due)
        _log.info("stopping: %s", stop.reason or "its time is over")
    summary = tally.summary(agent)  # with the last report
    if as_json:
        print_json(summary)
        return
    console.print(
        f"{summary.answered:,} answered, {summary.failed:,} failed; "
        + ", ".join(f"{n} {percent(r)}" for n, r in zip(opened.manifest.exits, summary.exit_rates, strict=True))
        + f"; mean latency {milliseconds(summary.mean_ms)}; {agent.policy_in_words}"
        + ("" if summary.accuracy is None else f"; accuracy {percent(summary.accuracy)}")
        + (f"; {summary.waiting} reports and audits wait for the calibrator" if summary.waiting else "")
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
    """Reports and audits that the calibrator had not acknowledged at the end."""


class _Tally:
    """What the agent does not count by itself: right answers, and samples of a stream that could not be had."""

    def __init__(self) -> None:
        self.unavailable = 0
        self._labelled = 0
        self._right = 0

    def add(self, result: Inference, labels: npt.NDArray[np.int64] | None) -> None:
        if labels is not None:
            self._labelled += 1
            self._right += int(result.predictions[0] == labels[0])

    def summary(self, agent: Agent) -> Summary:
        revision, policy = agent.active
        totals = agent.totals()
        answered = sum(totals.exited)
        return Summary(
            answered=answered,
            failed=totals.failed + self.unavailable,
            exit_rates=tuple(count / max(answered, 1) for count in totals.exited),
            mean_ms=totals.latency_ms / answered if answered else None,
            accuracy=self._right / self._labelled if self._labelled else None,
            revision=revision,
            policy=policy.kind,
            waiting=agent.waiting,
        )


class _Stop(threading.Event):
    """Set when it is time to stop; `reason` says why."""

    reason = ""


class _Status:
    """Says now and then how the agent is, in the log and to systemd."""

    def __init__(self, agent: Agent, tally: _Tally, notifier: Notifier) -> None:
        self._agent = agent
        self._tally = tally
        self._notifier = notifier
        self._due = time.monotonic() + _STATUS_INTERVAL_S

    def tell_if_due(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due += _STATUS_INTERVAL_S
        text = _status(self._agent, self._tally)
        _log.info("%s", text)
        self._notifier.status(text)


def _serve(status: _Status, *, duration_s: float | None, stop: threading.Event) -> None:
    """Let clients ask until it is time to stop."""
    end = math.inf if duration_s is None else time.monotonic() + duration_s
    while not stop.is_set() and (left_s := end - time.monotonic()) > 0:
        stop.wait(min(left_s, _STATUS_INTERVAL_S))
        status.tell_if_due()


def _replay(
    agent: Agent,
    samples: SampleStream,
    tally: _Tally,
    *,
    rate: float,
    duration_s: float | None,
    stop: threading.Event,
    on_sample: Callable[[], None] = lambda: None,
) -> None:
    """Answer samples at a rate until it is time to stop."""
    from edgeexit.agent.stream import ticks

    last_error = ""
    for _ in ticks(rate, stop=stop, duration_s=duration_s):
        try:
            try:
                sample = samples.next_sample()
            except Exception:
                tally.unavailable += 1
                raise
            tally.add(agent.infer(sample.inputs, labels=sample.labels), sample.labels)
        except Exception as error:  # noqa: BLE001 - the next sample may do; said once, not at every sample
            if (text := str(error)) != last_error:
                _log.error("no answer: %s", text)
                last_error = text
        on_sample()


def _status(agent: Agent, tally: _Tally) -> str:
    summary = tally.summary(agent)
    mix = " ".join(percent(rate) for rate in summary.exit_rates)
    return (
        f"{summary.answered} answered, {summary.failed} failed, exits {mix}, mean {milliseconds(summary.mean_ms)}, "
        f"{agent.policy_in_words}, {'online' if agent.connected else 'offline'}, "
        f"{summary.waiting} waiting"
    )


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Give an event that SIGTERM and Ctrl-C set; the second signal acts as it always does."""
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _frame: object) -> None:
        stop.reason = signal.Signals(number).name
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
