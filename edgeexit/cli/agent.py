"""`edgeexit agent`: runs a bundle on a device as a service, or on replayed samples, connected to its fleet."""

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
from edgeexit.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeexit.agent import Agent, SampleStream
    from edgeexit.agent.status_lines import StatusLines
    from edgeexit.agent.systemd import Notifier
    from edgeexit.runtime import Inference
    from edgeexit.wire import State

_log = logging.getLogger(__name__)

_STATUS_INTERVAL_S: Final = 10.0


def agent_command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    config: Annotated[Path, typer.Option(help="Configuration file of the agent (TOML).")],
    stream: Annotated[
        Path | None, typer.Option(help="Samples to replay endlessly and shuffled (.npz); default: serve clients.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0, help="Replayed samples per second; 0: as fast as possible.")] = 20.0,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Seconds to run; default: until Ctrl-C or SIGTERM.")
    ] = None,
    broker: Annotated[str | None, typer.Option(help="Broker URL; replaces broker.url of the configuration.")] = None,
    device: Annotated[str | None, typer.Option(help="Device name; replaces device of the configuration.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final summary as JSON.")] = False,
) -> None:
    """Run a bundle on this device under the fleet's policy, as a service or on replayed samples.

    The service implements the Open Inference Protocol on http://127.0.0.1:8080 (see [endpoint] in the configuration)
    and notifies systemd. --stream replays the samples of a file instead; when the file is replaced, the new samples are
    used, so that drift can be simulated. Ctrl-C or SIGTERM stops the agent cleanly. The log goes to standard error; it
    has the status once per hour, on a terminal every 10 seconds.

    Examples: `edgeexit agent mybundle --config agent.toml`,
    `edgeexit agent quickstart/bundle --config agent.toml --stream quickstart/test.npz --rate 50`
    """
    from edgeexit.agent import Agent, AgentConfig, SampleStream
    from edgeexit.agent.service import listening, serving
    from edgeexit.agent.status_lines import StatusLines
    from edgeexit.agent.systemd import Notifier
    from edgeexit.backends.base import load_engine_builder
    from edgeexit.bundle import Bundle
    from edgeexit.targets import load_target

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", stream=sys.stderr)
    settings = AgentConfig.load(config, broker=broker, device=device)
    if stream is None and settings.endpoint.enabled is False:
        raise ConfigError(
            f"config file '{config}': endpoint.enabled is false, so the agent would have no work; enable it, or use "
            "--stream"
        )
    opened = Bundle.open(bundle)
    backend = load_target(opened.manifest.target).backend
    if backend.builds_engines:
        load_engine_builder(backend).build_missing_engines(opened, progress=_LoggedProgress())
    samples = None if stream is None else SampleStream(stream, opened.manifest)
    notifier = Notifier()
    tally = _Tally()
    is_service = samples is None
    with (
        _stop_signals() as stop,
        listening(settings.endpoint, by_default=is_service) as listeners,
        Agent(opened, settings) as agent,
        serving(agent, settings.endpoint, by_default=is_service, notifier=notifier, listeners=listeners),
    ):
        gc.collect()
        gc.freeze()  # these objects stay; scanning them in each collection takes tens of milliseconds
        status = _Status(agent, tally, notifier, StatusLines(on_terminal=sys.stderr.isatty()))
        if samples is None:
            _serve(status, duration_s=duration, stop=stop)
        else:
            _replay(agent, samples, tally, rate=rate, duration_s=duration, stop=stop, on_sample=status.report_if_due)
        _log.info("stopping: %s", stop.reason or "--duration is over")
    summary = tally.summary(agent)  # the stopped agent has counted all inferences and sent its last report
    if as_json:
        print_json(summary)
        return
    console.print(
        f"{summary.samples:,} samples, {summary.failed:,} failed; "
        + ", ".join(f"{n} {percent(r)}" for n, r in zip(opened.manifest.exits, summary.exit_rates, strict=True))
        + f"; mean latency {milliseconds(summary.mean_ms)}; {agent.policy_description}"
        + ("" if summary.accuracy is None else f"; accuracy {percent(summary.accuracy)}")
        + (f"; reports and audits without acknowledgement: {summary.unacknowledged}" if summary.unacknowledged else "")
    )
    next_step(f"edgeexit inspect {bundle}")


class AgentSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent did from start to stop."""

    samples: int
    """Samples with a prediction."""
    failed: int
    """Inferences that raised an error, and samples of the stream that could not be read."""
    exit_rates: tuple[float, ...]
    """[K] fraction of the samples that exited at each exit; zeros if there were no samples."""
    mean_ms: float | None
    """Mean latency per sample; None if there were no samples."""
    accuracy: float | None
    """Fraction of correct predictions; None if the stream has no labels."""
    revision: int
    """Revision of the active policy."""
    policy: str
    """Kind of the active policy."""
    unacknowledged: int
    """Reports and audits that the calibrator had not acknowledged at the end."""


class _LoggedProgress(Progress):
    """Logs the name of each stage whose engine is built before the agent serves."""

    def step(self, name: str) -> None:
        _log.info("building the engine of %s; it is cached for later starts", name)


class _Tally:
    """Counts correct predictions and unreadable samples of the stream, which the agent itself does not count."""

    def __init__(self) -> None:
        self.unreadable = 0
        self._labelled = 0
        self._correct = 0

    def add(self, result: Inference, labels: npt.NDArray[np.int64] | None) -> None:
        if labels is not None:
            self._labelled += 1
            self._correct += int(result.predictions[0] == labels[0])

    def summary(self, agent: Agent) -> AgentSummary:
        revision, policy, _ = agent.active
        totals = agent.totals()
        samples = sum(totals.exited)
        return AgentSummary(
            samples=samples,
            failed=totals.failed + self.unreadable,
            exit_rates=tuple(count / max(samples, 1) for count in totals.exited),
            mean_ms=totals.latency_ms / samples if samples else None,
            accuracy=self._correct / self._labelled if self._labelled else None,
            revision=revision,
            policy=policy.kind,
            unacknowledged=agent.unacknowledged,
        )


class _Stop(threading.Event):
    """Set when the agent must stop; `reason` is the name of the signal."""

    reason = ""


class _Status:
    """Sends the status of the agent to systemd every 10 s, and logs it now and then."""

    def __init__(self, agent: Agent, tally: _Tally, notifier: Notifier, lines: StatusLines) -> None:
        self._agent = agent
        self._tally = tally
        self._notifier = notifier
        self._lines = lines
        self._due = time.monotonic() + _STATUS_INTERVAL_S

    def report_if_due(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due += _STATUS_INTERVAL_S
        summary, state = self._tally.summary(self._agent), self._agent.state
        text = _status_text(self._agent, summary, state)
        facts = (state.online, state.revision, state.policy, state.unconfirmed, state.problems, summary.failed)
        if self._lines.is_due(facts):
            _log.info("%s", text)
        self._notifier.status(text)


def _serve(status: _Status, *, duration_s: float | None, stop: threading.Event) -> None:
    """Wait until it is time to stop, while the endpoint serves clients."""
    end = math.inf if duration_s is None else time.monotonic() + duration_s
    while not stop.is_set() and (left_s := end - time.monotonic()) > 0:
        stop.wait(min(left_s, _STATUS_INTERVAL_S))
        status.report_if_due()


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
    """Run the samples of a stream at a rate until it is time to stop."""
    from edgeexit.agent.stream import ticks
    from edgeexit.limited_log import LimitedLog

    repeats = LimitedLog(_log)
    for _ in ticks(rate, stop=stop, duration_s=duration_s):
        try:
            try:
                sample = samples.next_sample()
            except Exception:
                tally.unreadable += 1
                raise
            tally.add(agent.infer(sample.inputs, labels=sample.labels), sample.labels)
        except Exception as error:  # noqa: BLE001 - the next sample may succeed
            repeats.error(type(error).__name__, "a sample of the stream failed: %s", error)
        on_sample()
    repeats.close()


def _status_text(agent: Agent, summary: AgentSummary, state: State) -> str:
    rates = " ".join(percent(rate) for rate in summary.exit_rates)
    return (
        f"{summary.samples} samples, {summary.failed} failed, exits {rates}, mean {milliseconds(summary.mean_ms)}, "
        f"{agent.policy_description}, {'online' if state.online else 'offline'}, "
        f"{summary.unacknowledged} unacknowledged"
        + ("; no confirmation of the policy by the calibrator" if state.unconfirmed else "")
        + "".join(f"; {problem}" for problem in state.problems)
    )


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Yield an event that SIGTERM and Ctrl-C set; if the signal arrives again, the earlier handler handles it."""
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request_stop(number: int, _frame: object) -> None:
        stop.reason = signal.Signals(number).name
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number, action in before.items():
            signal.signal(number, action)
