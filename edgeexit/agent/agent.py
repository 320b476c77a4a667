"""The agent: runs inference under the active policy; the fleet can neither delay inference nor make it fail."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from statistics import median
from types import TracebackType
from typing import Final, NamedTuple, NoReturn

import numpy as np

from edgeexit.agent.auditor import Auditor
from edgeexit.agent.config import AgentConfig
from edgeexit.agent.counters import Counters, CounterTotals
from edgeexit.agent.fleet_link.fleet_side import FleetSide
from edgeexit.agent.fleet_link.key_store import KeyStore
from edgeexit.agent.golden_check import check_golden_samples
from edgeexit.agent.labels import Labels, check_batch_labels, check_labels
from edgeexit.agent.policy.active_policy import ActivePolicy
from edgeexit.agent.recording import InferenceRecorder
from edgeexit.agent.state_lock import lock_state_dir
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Inputs
from edgeexit.errors import InferenceError
from edgeexit.runtime import Inference, Runner
from edgeexit.runtime.fork import keep_forever, refusal, unwatch, watch
from edgeexit.runtime.grouping import infer_together
from edgeexit.wire import AuditedSample, State

_log = logging.getLogger(__name__)

_MAX_DRAIN_S: Final = 10.0
_MEASUREMENTS: Final = 3


class Submitted(NamedTuple):
    """A pending inference and the policy it runs under."""

    active: ActivePolicy
    inference: Future[Inference]


class Agent:
    """Runs a bundle under the newest accepted policy and reports to the fleet; a context manager.

    Only the process that opened it can use it: after a fork, the copy in the child process raises InferenceError.

    Args:
        bundle: the bundle to run.
        config: who this device is, whom it trusts, and where its broker is.

    Raises ConfigError for a key that is not readable; BundleError if the configuration requires a signed bundle and
    none of its keys for bundles signed this one; TargetError for a bundle that is built for another machine, unless the
    configuration allows `fallback`.

    """

    def __init__(self, bundle: Bundle, config: AgentConfig) -> None:
        self._bundle = bundle
        self._config = config
        self._keys = KeyStore(config.state_dir, config.fleet, config.load_keys())
        if config.signed_bundle:
            trusted = self._keys.trusted
            bundle.verify_signature(trusted.keys("bundle"), threshold=trusted.threshold("bundle"))
        self._exits = len(bundle.manifest.stages)
        self._counters = Counters(self._exits)
        self._started = time.monotonic()
        self._pending = 0
        self._pending_changed = threading.Condition()
        self._runner = Runner(
            bundle,
            fallback=config.fallback,
            not_finite=config.not_finite,
            max_delay_ms=config.max_delay_ms,
            max_waiting=config.max_waiting,
        )
        self._resources = contextlib.ExitStack()
        self._process = 0
        self._refusal: str | None = None

    def __enter__(self) -> "Agent":
        """Open the stages, check them on the golden samples, open the outbox, and start to connect to the broker.

        Raises ConfigError if another agent uses this `state_dir`; BundleError if a stage does not open, the golden
        samples are missing, or the outputs differ from the expected ones; TargetError or EngineError if the runtime
        does not work on this machine.
        """
        with contextlib.ExitStack() as resources:
            state_lock = resources.enter_context(lock_state_dir(self._config.state_dir))
            resources.enter_context(self._runner)
            for warning in (*self._runner.warnings, *self._config.broker_warnings()):
                _log.warning("%s", warning)
            self._golden_sample = check_golden_samples(self._runner, self._bundle)
            self._fleet = FleetSide(
                self._bundle,
                self._config,
                state_lock=state_lock,
                keys=self._keys,
                counters=self._counters,
                started=self._started,
                collect=self._collect,
            )
            resources.callback(self._fleet.close)
            self._auditor = Auditor(
                self._runner,
                fraction=self._config.audit_fraction,
                max_fraction=self._config.max_audit_fraction,
                exits=self._exits,
                maps=self._runner.manifest.has_maps,
                emit=self._add_audit,
                feedback_window_s=self._config.feedback_window_s,
            )
            self._recorder = InferenceRecorder(self._counters, self._auditor)
            self._fleet.start()
            resources.callback(self._fleet.stop)
            self._auditor.start()
            resources.callback(self._auditor.stop)
            resources.callback(self._wait_for_pending)
            self._resources = resources.pop_all()
        self._process = os.getpid()
        watch(self, Agent._abandon_after_fork)
        _log.info(
            "agent of device '%s' started (%s): %s", self._config.device, self._fleet.start_id, self.policy_description
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish pending inferences and audits, send the last report and the offline state, and close everything."""
        self._resources.close()
        unwatch(self)

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: an agent cannot be pickled, as `multiprocessing` does to pass it to a new process."""
        raise TypeError("an Agent cannot be sent to another process; open one there, with a state_dir of its own")

    @property
    def config(self) -> AgentConfig:
        """The configuration of the agent."""
        return self._config

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._bundle.manifest

    @property
    def bundle_digest(self) -> str:
        """The digest that identifies the bundle in messages and policy documents."""
        return self._bundle.digest

    @property
    def active(self) -> ActivePolicy:
        """The revision and policy of the next inference."""
        return self._fleet.policies.active

    @property
    def policy_description(self) -> str:
        """Revision and kind of the active policy, for logs: `revision 3 (confidence)`."""
        return self._fleet.policies.description

    @property
    def completed_batches(self) -> int:
        """Number of batches completed since the agent started."""
        return self._counters.batches

    def totals(self) -> CounterTotals:
        """Return the counts since the agent started, of all policies together."""
        return self._counters.totals()

    @property
    def connected(self) -> bool:
        """True while the agent is connected to the broker."""
        return self._refusal is None and self._fleet.link.connected

    @property
    def connection_problem(self) -> str | None:
        """One line: why the agent is not connected to the broker, or what the broker does not allow."""
        return self._fleet.link.problem

    @property
    def state(self) -> State:
        """What the agent publishes about itself."""
        return self._fleet.reporter.state(self.connected)

    @property
    def unacknowledged(self) -> int:
        """Number of reports and audits that the calibrator has not acknowledged."""
        self._check_process()
        return self._fleet.link.unacknowledged

    def infer(self, inputs: Inputs, *, id: str | None = None, labels: Labels | None = None) -> Inference:  # noqa: A002 - the protocol calls it id
        """Run a batch under the active policy. Thread-safe.

        Args:
            inputs: model input name -> array [B, ...].
            id: name of the inference, under which `feedback` can pass its labels later.
            labels: [B] true classes, negative if unknown; audits include them.

        Raises DataError for inputs or labels that do not fit the model, and InferenceError if the runtime fails.

        """
        if labels is not None:
            labels = check_batch_labels(labels, inputs, classes=self.manifest.classes)
        active = self._fleet.policies.active
        try:
            result = self._runner.infer(inputs, policy=active.policy)
        except Exception:
            self._counters.record_failure(active.revision)
            raise
        drawn = self._recorder.draw(inputs, len(result.exits), active, labels=labels, id=id)
        self._recorder.record(result, active, drawn)
        return result

    def infer_async(
        self,
        inputs: Inputs,
        *,
        id: str | None = None,  # noqa: A002 - the protocol calls it id
        labels: Labels | None = None,
    ) -> Future[Inference]:
        """Run the samples as `infer` does, but together with other pending requests in one batch; see `submit`."""
        return self.submit(inputs, id=id, labels=labels).inference

    def submit(
        self,
        inputs: Inputs,
        *,
        id: str | None = None,  # noqa: A002 - the protocol calls it id
        labels: Labels | None = None,
    ) -> Submitted:
        """Pass a batch to the runner's scheduler; return at once with the policy selected for it.

        The arrays are copied. The future can be cancelled until the batch starts to run.

        Raises DataError as `infer` does, and OverloadedError if too many samples are pending.
        """
        if labels is not None:
            labels = check_batch_labels(labels, inputs, classes=self.manifest.classes)
        active = self._fleet.policies.active
        try:
            future = self._runner.infer_async(inputs, policy=active.policy)
        except Exception:
            self._counters.record_failure(active.revision)
            raise
        drawn = self._recorder.draw(inputs, len(next(iter(inputs.values()))), active, labels=labels, id=id)
        with self._pending_changed:
            self._pending += 1

        def finish(done: Future[Inference]) -> None:
            if done.cancelled():
                self._recorder.discard(drawn)
            elif done.exception() is not None:
                self._counters.record_failure(active.revision)
                self._recorder.discard(drawn)
            else:
                self._recorder.record(done.result(), active, drawn)
            with self._pending_changed:
                self._pending -= 1
                self._pending_changed.notify_all()

        future.add_done_callback(finish)
        return Submitted(active, future)

    def infer_together(
        self, requests: Sequence[tuple[Inputs, str | None]]
    ) -> tuple[ActivePolicy, list[Inference | Exception]]:
        """Run requests that have arrived together as one batch, in the calling thread.

        Args:
            requests: inputs and id of each request, as for `infer`.

        Returns the policy, and for each request its result or its error.

        """
        active = self._fleet.policies.active
        results = infer_together(self._runner, [inputs for inputs, _ in requests], policy=active.policy)
        for (inputs, name), result in zip(requests, results, strict=True):
            if isinstance(result, Inference):
                drawn = self._recorder.draw(inputs, len(result.exits), active, labels=None, id=name)
                self._recorder.record(result, active, drawn)
            else:
                self._counters.record_failure(active.revision)
        return active, results

    def measure_golden_sample(self) -> tuple[float, int]:
        """Return the milliseconds of a golden sample at full depth (median of 3), and the elements of its inputs."""
        durations_ms = []
        for _ in range(_MEASUREMENTS):
            started = time.perf_counter()
            self._runner.infer_every_exit(self._golden_sample)
            durations_ms.append((time.perf_counter() - started) * 1e3)
        return median(durations_ms), sum(array.size for array in self._golden_sample.values())

    def feedback(self, id: str, label: int | Labels) -> bool:  # noqa: A002 - the protocol calls it id
        """Pass the true class of an earlier inference: one class, or one per sample of the batch, negative if unknown.

        Returns False if no sample of this inference waits for a label: none was drawn for an audit, or the audited
        samples have been sent already.

        Raises DataError if the number of labels is not the number of samples, or a label is not a class of the model.
        """
        self._check_process()
        labels = label if isinstance(label, Sequence | np.ndarray) else [label]
        return self._auditor.feedback(id, check_labels(labels, owner=f"id '{id}'", classes=self.manifest.classes))

    def probe(self) -> Future[Inference]:
        """Run one golden sample through the scheduler without counting it, to check that inference works.

        Raises OverloadedError if too many samples are pending.
        """
        return self._runner.infer_async(self._golden_sample, policy=self.active.policy)

    def _abandon_after_fork(self) -> None:
        """Make this copy of an open agent refuse its work, in a child of the process that opened it.

        Connections, database and lock belong to the parent: closing them here would disturb it. The runner refuses
        inferences by itself; they are counted with a lock that no thread of the parent can hold.
        """
        self._refusal = refusal("agent", self._process)
        keep_forever(self)
        keep_forever(self._resources)
        self._resources = contextlib.ExitStack()
        self._counters = Counters(self._exits)

    def _check_process(self) -> None:
        if self._refusal is not None:
            raise InferenceError(self._refusal)

    def _wait_for_pending(self) -> None:
        """Wait for submitted inferences, so that the last report includes them."""
        with self._pending_changed:
            self._pending_changed.wait_for(lambda: not self._pending, timeout=_MAX_DRAIN_S)

    def _collect(self, always: int | None) -> None:
        self._auditor.flush()
        self._fleet.reporter.add_reports(skipped=self._auditor.skipped, always=always)

    def _add_audit(self, revision: int, samples: tuple[AuditedSample, ...]) -> None:
        self._fleet.reporter.add_audit(revision, samples)
        self._fleet.link.wake()
