"""The agent: inference under the fleet's policy, which never waits for the fleet and never fails because of it."""

import contextlib
import logging
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeexit import __version__
from edgeexit.agent.auditor import Auditor, Labels
from edgeexit.agent.config import AgentConfig
from edgeexit.agent.counters import Counters
from edgeexit.agent.link import FleetLink
from edgeexit.agent.outbox import Outbox
from edgeexit.agent.policy_store import (
    SHIPPED_REVISION,
    SLOTS,
    PolicyStore,
    Recipient,
    Unchanged,
    check_policy,
    one_line,
    slot_of,
)
from edgeexit.bundle import Bundle
from edgeexit.datasets import Inputs
from edgeexit.errors import DataError, EdgeExitError
from edgeexit.messages import Audit, AuditedSample, Command, Rejection, Report, State
from edgeexit.policies import AnyPolicy, PolicyDocument
from edgeexit.policies.silent import silent_exits_remark
from edgeexit.runtime import Inference, Runner, profile_bundle, whole_model

_log = logging.getLogger(__name__)

_PROFILE_SECONDS = 1.0
_LONGEST_PROFILE_S = 10.0


class ActivePolicy(NamedTuple):
    """The policy in force and its revision; changed together."""

    revision: int
    policy: AnyPolicy


class Agent:
    """Answers with a bundle under the newest policy, and keeps the fleet informed; a context manager.

    Args:
        bundle: an opened bundle.
        config: who this device is.

    Raises ConfigError for a trusted key that cannot be read, and BundleError where the configuration asks for a signed
    bundle and this one is not signed by a trusted key.

    """

    def __init__(self, bundle: Bundle, config: AgentConfig) -> None:
        self._bundle = bundle
        self._config = config
        self._keys = config.load_keys()
        if config.signed_bundle:
            bundle.verify_signature(self._keys)
        self._exits = len(bundle.manifest.stages)
        self._recipient = Recipient(
            fleet=config.fleet,
            device=config.device,
            cohort=config.cohort,
            bundle=bundle.digest,
            exits=self._exits,
            classes=bundle.manifest.classes,
        )
        self._shipped = _shipped_policy(bundle)
        self._store = PolicyStore(config.state_dir, self._recipient)
        self._documents = self._store.load(self._keys)
        self._active = self._choose()
        self._warn_of_silent_exits()
        self._rejected: Rejection | None = None
        self._counters = Counters(self._exits)
        self._started = time.monotonic()
        self._profiling: threading.Thread | None = None
        self._told_uncounted = False
        self._runner = Runner(bundle)
        self._life = contextlib.ExitStack()

    def __enter__(self) -> "Agent":
        """Open the stages, the outbox and the line to the fleet. Raises BundleError for a stage that does not open."""
        with contextlib.ExitStack() as life:
            life.enter_context(self._runner)
            for remark in self._runner.remarks:
                _log.warning("%s", remark)
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
            self._auditor = Auditor(
                self._runner, share=self._config.audit_share, exits=self._exits, emit=self._keep_audit
            )
            self._link.start()
            life.callback(self._link.stop)
            self._auditor.start()
            life.callback(self._auditor.stop)
            life.callback(self._finish_profile)
            self._life = life.pop_all()
        _log.info("%s, boot %d: revision %d (%s)", self._config.device, self._outbox.boot, *self._described())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish audits, send the last report, say goodbye, and close everything."""
        self._life.close()

    @property
    def active(self) -> ActivePolicy:
        """The revision and policy that the next inference will use."""
        return self._active

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._link.connected

    @property
    def waiting(self) -> int:
        """Number of reports and audits that the calibrator has not acknowledged."""
        return self._link.waiting

    def infer(self, inputs: Inputs, *, labels: Labels | None = None) -> Inference:
        """Answer a batch under the policy in force.

        Args:
            inputs: model input name -> array [B, ...].
            labels: [B] true classes where the application knows them, negative where not; they go into audits.

        Raises DataError for inputs or labels that do not fit. May be called from several threads.

        """
        if labels is not None:
            _check_labels(labels, inputs)
        revision, policy = self._active
        try:
            result = self._runner.infer(inputs, policy=policy)
        except Exception:
            self._counters.record_failure(revision)
            raise
        try:
            self._counters.record(revision, policy, result)
            self._auditor.offer(inputs, result, revision=revision, policy=policy, labels=labels)
        except Exception:  # noqa: BLE001 - the answer is there and counts for more
            if not self._told_uncounted:  # the next one will fail alike
                self._told_uncounted = True
                _log.exception("inferences are not counted or audited")
        return result

    def _choose(self) -> ActivePolicy:
        for slot in SLOTS:
            if (document := self._documents.get(slot)) is not None:
                return ActivePolicy(document.revision, document.policy)
        return ActivePolicy(SHIPPED_REVISION, self._shipped)

    def _warn_of_silent_exits(self) -> None:
        if (remark := silent_exits_remark(self._active.policy, self._bundle.manifest.exits)) is not None:
            _log.warning("%s", remark)

    def _described(self) -> tuple[int, str]:
        return self._active.revision, self._active.policy.kind

    def _state(self, online: bool) -> State:  # noqa: FBT001 - the only thing that varies
        revision, kind = self._described()
        return State(
            online=online,
            bundle=self._bundle.digest,
            cohort=self._config.cohort,
            boot=self._outbox.boot,
            revision=revision,
            policy=kind,
            agent=__version__,
            rejected=self._rejected,
        )

    def _receive_policy(self, envelope: bytes) -> None:
        checked = check_policy(envelope, self._keys, self._recipient, self._documents)
        if isinstance(checked, Unchanged):
            _log.info("policy revision %d changes nothing: %s", checked.revision, checked.reason)
            if self._rejected is not None:
                self._rejected = None
                self._link.publish_state()
            return
        if isinstance(checked, PolicyDocument):
            try:
                self._store.save(slot_of(checked), envelope)
            except OSError as error:
                reason = one_line(f"it cannot be stored: {error.strerror or error}")
                checked = Rejection(reason=reason, revision=checked.revision)
        if isinstance(checked, Rejection):
            revision = "" if checked.revision is None else f" revision {checked.revision}"
            _log.warning("policy%s rejected: %s", revision, checked.reason)
            self._rejected = checked
        else:
            self._documents[slot_of(checked)] = checked
            self._active = self._choose()
            self._warn_of_silent_exits()
            self._rejected = None
            _log.info(
                "policy accepted: revision %d (%s) for this %s; revision %d (%s) is in force",
                checked.revision, checked.policy.kind, slot_of(checked), *self._described(),
            )  # fmt: skip
        self._link.publish_state()

    def _receive_command(self, command: Command) -> None:
        _log.info("command: %s", command.action)
        if command.action == "report":
            self._collect(always=self._active.revision)
        elif self._profiling is None or not self._profiling.is_alive():
            self._profiling = threading.Thread(target=self._profile, name="agent-profile", daemon=True)
            self._profiling.start()
        else:
            _log.info("a profile is being taken already")

    def _profile(self) -> None:
        """Measure this machine and tell; raw samples stay off the wire."""
        try:
            profile = profile_bundle(self._bundle, policy=self._active.policy, seconds=_PROFILE_SECONDS)
            stages = tuple(msgspec.structs.replace(stage, raw_us=()) for stage in profile.stages)
            self._link.publish_profile(msgspec.structs.replace(profile, stages=stages))
            _log.info("profile taken: %s ms to each exit", ", ".join(f"{ms:.3f}" for ms in profile.cumulative_ms))
        except Exception as error:  # noqa: BLE001 - a measurement that fails changes nothing
            _log.warning("no profile: %s", one_line(f"{type(error).__name__}: {error}"))

    def _finish_profile(self) -> None:
        if self._profiling is not None:
            self._profiling.join(timeout=_LONGEST_PROFILE_S)

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


def _check_labels(labels: Labels, inputs: Inputs) -> None:
    """Refuse labels that are not one a sample (DataError); the inputs themselves are checked where they are run."""
    for array in inputs.values():
        if np.shape(array)[:1] not in {(), (len(labels),)}:
            raise DataError(f"labels holds {len(labels)} classes for {len(array)} samples; give one each")


def _shipped_policy(bundle: Bundle) -> AnyPolicy:
    """Return the bundle's own policy, or one that runs every sample to full depth."""
    try:
        document = bundle.policy()
    except EdgeExitError as error:
        _log.warning("every sample runs to full depth: %s", error)
        document = None
    if document is not None:
        return document.policy
    return whole_model(len(bundle.manifest.stages))
