"""The agent: inference under the fleet's policy, which never waits for the fleet and never fails because of it."""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from edgeexit import __version__
from edgeexit.agent.active_policy import ActivePolicy, PolicySelector
from edgeexit.agent.auditor import Auditor, Drawn
from edgeexit.agent.config import AgentConfig
from edgeexit.agent.counters import Counters, Totals
from edgeexit.agent.labels import Labels, check_batch_labels, check_labels
from edgeexit.agent.link import FleetLink
from edgeexit.agent.lock import only_agent
from edgeexit.agent.outbox import Outbox
from edgeexit.agent.policy_store import PolicyStore, Recipient
from edgeexit.agent.profiling import ProfileOnCommand
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Inputs
from edgeexit.runtime import Inference, Runner
from edgeexit.wire import Audit, AuditedSample, Command, Report, State

_log = logging.getLogger(__name__)

_MAX_ANSWER_S = 10.0


class Submitted(NamedTuple):
    """An inference under way, and the policy that answers it."""

    active: ActivePolicy
    inference: Future[Inference]


class Agent:
    """Answers with a bundle under the newest policy, and keeps the fleet informed; a context manager.

    Args:
        bundle: an opened bundle.
        config: who this device is.

    Raises ConfigError for a trusted key that cannot be read, BundleError where the configuration asks for a signed
    bundle and this one is not signed by a trusted key, and TargetError for a bundle that is not for this machine, where
    the configuration allows no fallback.

    """

    def __init__(self, bundle: Bundle, config: AgentConfig) -> None:
        self._bundle = bundle
        self._config = config
        keys = config.load_keys()
        if config.signed_bundle:
            bundle.verify_signature(keys)
        self._exits = len(bundle.manifest.stages)
        recipient = Recipient(
            fleet=config.fleet,
            device=config.device,
            cohort=config.cohort,
            bundle=bundle.digest,
            exits=self._exits,
            classes=bundle.manifest.classes,
        )
        self._policies = PolicySelector(bundle, PolicyStore(config.state_dir, recipient), recipient, keys)
        self._counters = Counters(self._exits)
        self._started = time.monotonic()
        self._told_uncounted = False
        self._under_way = 0
        self._under_way_changed = threading.Condition()
        self._runner = Runner(
            bundle,
            fallback=config.fallback,
            not_finite=config.not_finite,
            max_delay_ms=config.max_delay_ms,
            max_waiting=config.max_waiting,
        )
        self._life = contextlib.ExitStack()

    def __enter__(self) -> "Agent":
        """Open the stages, check them on the golden samples, and open the outbox and the line to the fleet.

        Raises ConfigError where another agent runs with this `state_dir`; BundleError for a stage that does not open,
        for missing golden samples, and where the stages do not answer them as they should; TargetError or EngineError
        for a runtime that does not work here.
        """
        with contextlib.ExitStack() as life:
            life.enter_context(only_agent(self._config.state_dir))
            life.enter_context(self._runner)
            for warning in self._runner.warnings:
                _log.warning("%s", warning)
            self._check_self()
            for trouble in self._config.broker_file_troubles():
                _log.warning("%s", trouble)
            self._outbox = Outbox(self._config.state_dir, max_bytes=self._config.outbox_max_bytes)
            life.callback(self._outbox.close)
            self._link = FleetLink(
                self._config,
                bundle=self._bundle.digest,
                outbox=self._outbox,
                state=self._state,
                collect=self._collect,
                on_policy=self._receive_policy,
                on_command=self._receive_command,
            )
            self._profiling = ProfileOnCommand(
                self._bundle, policy=lambda: self.active.policy, publish=self._link.publish_profile
            )
            self._auditor = Auditor(
                self._runner,
                fraction=self._config.audit_fraction,
                exits=self._exits,
                emit=self._keep_audit,
                feedback_window_s=self._config.feedback_window_s,
            )
            self._link.start()
            life.callback(self._link.stop)
            self._auditor.start()
            life.callback(self._auditor.stop)
            life.callback(self._profiling.finish)
            life.callback(self._finish_under_way)
            self._life = life.pop_all()
        _log.info("%s, boot %d: %s", self._config.device, self._outbox.boot, self.policy_in_words)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish audits, send the last report, say goodbye, and close everything."""
        self._life.close()

    @property
    def manifest(self) -> Manifest:
        """What is in the bundle."""
        return self._bundle.manifest

    @property
    def bundle_digest(self) -> str:
        """The bundle's name in messages and policy documents."""
        return self._bundle.digest

    @property
    def active(self) -> ActivePolicy:
        """The revision and policy that the next inference will use."""
        return self._policies.active

    @property
    def policy_in_words(self) -> str:
        """The revision and kind of the policy in force, for people."""
        return self._policies.in_words

    @property
    def answered(self) -> int:
        """Number of batches that were answered since the start."""
        return self._counters.batches

    def totals(self) -> Totals:
        """Return what was answered since the start, under all policies together."""
        return self._counters.totals()

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._link.connected

    @property
    def waiting(self) -> int:
        """Number of reports and audits that the calibrator has not acknowledged."""
        return self._link.waiting

    def infer(self, inputs: Inputs, *, id: str | None = None, labels: Labels | None = None) -> Inference:  # noqa: A002
        """Answer a batch under the policy in force.

        Args:
            inputs: model input name -> array [B, ...].
            id: under which `feedback` may give the labels later.
            labels: [B] true classes where the application knows them, negative where not; they go into audits.

        Raises DataError for inputs or labels that do not fit. May be called from several threads.

        """
        if labels is not None:
            labels = check_batch_labels(labels, inputs, classes=self.manifest.classes)
        active = self._policies.active
        try:
            result = self._runner.infer(inputs, policy=active.policy)
        except Exception:
            self._counters.record_failure(active.revision)
            raise
        self._note(result, active, self._draw(inputs, len(result.exits), labels, id))
        return result

    def infer_async(
        self,
        inputs: Inputs,
        *,
        id: str | None = None,  # noqa: A002 - the protocol's word
        labels: Labels | None = None,
    ) -> Future[Inference]:
        """Answer a batch as `infer` does, together with what else is asked at the same time; see `submit`."""
        return self.submit(inputs, id=id, labels=labels).inference

    def submit(
        self,
        inputs: Inputs,
        *,
        id: str | None = None,  # noqa: A002 - the protocol's word
        labels: Labels | None = None,
    ) -> Submitted:
        """Have a batch answered by the runner's scheduler, and return at once, with the policy that was chosen for it.

        The arrays are copied. The future may be cancelled as long as nothing of the batch has run. Raises what `infer`
        does, and OverloadedError where too much waits already.
        """
        if labels is not None:
            labels = check_batch_labels(labels, inputs, classes=self.manifest.classes)
        active = self._policies.active
        try:
            future = self._runner.infer_async(inputs, policy=active.policy)
        except Exception:
            self._counters.record_failure(active.revision)
            raise
        drawn = self._draw(inputs, len(next(iter(inputs.values()))), labels, id)
        with self._under_way_changed:
            self._under_way += 1

        def note(done: Future[Inference]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._note(done.result(), active, drawn)
            else:
                if drawn is not None:
                    self._auditor.drop(drawn)
                if not done.cancelled():
                    self._counters.record_failure(active.revision)
            with self._under_way_changed:
                self._under_way -= 1
                self._under_way_changed.notify_all()

        future.add_done_callback(note)
        return Submitted(active, future)

    def feedback(self, id: str, label: int | Labels) -> bool:  # noqa: A002 - the protocol's word
        """Tell the true class of what was asked under an id: of its one sample, or of each, negative: not known.

        Returns False where no sample of it waits for a label: none was drawn for an audit, or they have gone out.
        Raises DataError for another number of labels than samples, and for what is no class of the model.
        """
        labels = label if isinstance(label, Sequence | np.ndarray) else [label]
        return self._auditor.feedback(id, check_labels(labels, whose=f"id '{id}'", classes=self.manifest.classes))

    def probe(self) -> Future[Inference]:
        """Answer one golden sample by way of the scheduler, uncounted: whether inference answers at all.

        Raises OverloadedError.
        """
        return self._runner.infer_async(self._golden_sample, policy=self.active.policy)

    def _check_self(self) -> None:
        from edgeexit.runtime.self_check import self_check  # noqa: PLC0415 - of use once

        started = time.monotonic()
        golden = self._bundle.golden()
        checks = self_check(self._runner, self._bundle, golden)
        self._golden_sample = {name: array[:1].copy() for name, array in golden.inputs.items()}
        _log.info(
            "%s answers %d golden samples as it should, to %.2g at most (%.2f s)",
            self._runner.runtime,
            checks[0].samples,
            max(check.max_error for check in checks),
            time.monotonic() - started,
        )

    def _draw(self, inputs: Inputs, samples: int, labels: Labels | None, identity: str | None) -> Drawn | None:
        """Draw what to audit; whatever goes wrong, the answer counts for more."""
        try:
            return self._auditor.draw(inputs, samples, labels=labels, identity=identity)
        except Exception:  # noqa: BLE001 - see above
            self._tell_uncounted()
            return None

    def _note(self, result: Inference, active: ActivePolicy, drawn: Drawn | None) -> None:
        """Count an answer and audit what was drawn of it; whatever goes wrong, the answer counts for more."""
        try:
            self._counters.record(active.revision, active.policy, result)
            if drawn is not None:
                self._auditor.take(drawn, result, revision=active.revision, policy=active.policy)
        except Exception:  # noqa: BLE001 - see above
            self._tell_uncounted()

    def _tell_uncounted(self) -> None:
        if not self._told_uncounted:  # the next one will fail alike
            self._told_uncounted = True
            _log.exception("inferences are not counted or audited")

    def _state(self, online: bool) -> State:  # noqa: FBT001 - the only thing that varies
        revision, policy = self.active
        return State(
            online=online,
            bundle=self._bundle.digest,
            cohort=self._config.cohort,
            boot=self._outbox.boot,
            revision=revision,
            policy=policy.kind,
            agent=__version__,
            rejected=self._policies.rejected,
        )

    def _receive_policy(self, envelope: bytes) -> None:
        if self._policies.receive(envelope):
            self._link.publish_state()

    def _receive_command(self, command: Command) -> None:
        _log.info("command: %s", command.action)
        if command.action == "report":
            self._collect(always=self.active.revision)
        else:
            self._profiling.start()

    def _finish_under_way(self) -> None:
        """Wait for what `submit` has taken in, so that the last report tells of it."""
        with self._under_way_changed:
            self._under_way_changed.wait_for(lambda: not self._under_way, timeout=_MAX_ANSWER_S)

    def _collect(self, *, always: int | None = None) -> None:
        self._auditor.flush()
        for snapshot in self._counters.take_changed(always=always):
            self._outbox.add(
                Report(
                    **self._origin(snapshot.revision),
                    uptime_s=round(time.monotonic() - self._started, 3),
                    exits=snapshot.exits,
                    failed=snapshot.failed,
                    skipped=self._auditor.skipped,
                )
            )

    def _keep_audit(self, revision: int, samples: tuple[AuditedSample, ...]) -> None:
        self._outbox.add(Audit(**self._origin(revision), samples=samples))
        self._link.wake()

    def _origin(self, revision: int) -> dict[str, Any]:
        """Return the fields that reports and audits share; the outbox numbers them."""
        return {
            "outbox": self._outbox.identity,
            "sequence": 0,
            "bundle": self._bundle.digest,
            "cohort": self._config.cohort,
            "boot": self._outbox.boot,
            "revision": revision,
        }
