"""Assembles what an agent needs for its fleet: policies and keys, outbox, link, and the handling of what arrives."""

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from edgeexit.agent.config import AgentConfig
from edgeexit.agent.counters import Counters
from edgeexit.agent.fleet_link.command_check import CommandCheck
from edgeexit.agent.fleet_link.downlink import Downlink, Topic
from edgeexit.agent.fleet_link.freshness import Freshness
from edgeexit.agent.fleet_link.identity import DeviceIdentity
from edgeexit.agent.fleet_link.key_store import KeyStore
from edgeexit.agent.fleet_link.link import FleetLink
from edgeexit.agent.fleet_link.reporting import Reporter
from edgeexit.agent.outbox.outbox import Outbox
from edgeexit.agent.policy.active_policy import PolicySelector
from edgeexit.agent.policy.check import Recipient
from edgeexit.agent.policy.store import PolicyStore
from edgeexit.agent.policy.trial import PolicyTrial
from edgeexit.agent.policy.trial_marker import TrialMarker
from edgeexit.agent.profiling import ProfileOnCommand
from edgeexit.agent.state_lock import StateLock
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError, ConfigError
from edgeexit.wire import State, down_topic, heartbeat_topic, keys_topic, policy_topic

_log = logging.getLogger(__name__)

_COMMANDS: Final = 16
"""Commands that may wait to be checked."""
_STATE_S: Final = 2.0
_STATE_BURST: Final = 10.0
"""Beyond 10 states at once, one per 2 s is published, whatever invalid policies arrive."""


class FleetSide:
    """The fleet's side of an agent. Nothing here delays inference, or makes it fail.

    Args:
        bundle: the bundle that the agent runs.
        config: who this device is, and where its broker is.
        state_lock: the lock of the state folder.
        keys: the keys that are trusted.
        counters: what has run under each policy.
        started: monotonic seconds at which the agent started.
        collect: adds reports and audits to the outbox, and a report of a revision in any case.

    Attributes:
        policies: the active policy.
        reporter: adds messages to the outbox.
        link: sends them.

    """

    def __init__(
        self,
        bundle: Bundle,
        config: AgentConfig,
        *,
        state_lock: StateLock,
        keys: KeyStore,
        counters: Counters,
        started: float,
        collect: Callable[[int | None], None],
    ) -> None:
        folder = config.state_dir
        recipient = Recipient(
            fleet=config.fleet,
            device=config.device,
            cohort=config.cohort,
            bundle=bundle.digest,
            exits=len(bundle.manifest.stages),
            classes=bundle.manifest.classes,
        )
        self._bundle = bundle
        self._checks_bundle = config.signed_bundle
        self._bundle_problem: str | None = None
        self._connection_problem: Callable[[], str | None] = lambda: None
        self._state_lock = state_lock
        self._retaken = 0
        self._keys = keys
        self._collect = collect
        self.policies = PolicySelector(
            bundle,
            PolicyStore(folder, recipient),
            TrialMarker(folder),
            recipient,
            keys.trusted,
            crash_window_s=config.policy_trial_s,
        )
        self._trial = PolicyTrial(self.policies, counters)
        self._freshness = Freshness(folder, recipient, within_s=config.confirm_within_s)
        self._outbox = Outbox(folder, max_bytes=config.outbox_max_bytes, settle=state_lock.retake)
        self._identity = DeviceIdentity(folder)
        self._commands = CommandCheck(recipient, start=self._outbox.start)
        self.reporter = Reporter(
            recipient,
            counters=counters,
            policies=self.policies,
            outbox=self._outbox,
            identity=self._identity,
            freshness=self._freshness,
            problems=self._problems,
            audit_fraction=config.audit_fraction,
            started=started,
        )
        address, digest = config.address, recipient.bundle
        policy_topics = (policy_topic(config.fleet, digest, config.cohort), down_topic(address, "policy"))
        self._rejected: dict[str, bytes] = {}
        """Topic -> its newest policy, if it was rejected: the key set that it needs may arrive after it."""
        self._downlink = Downlink(
            {
                keys_topic(config.fleet): Topic(self._handle_keys),
                **{topic: Topic(partial(self._handle_policy, topic)) for topic in policy_topics},
                heartbeat_topic(config.fleet, digest, config.cohort): Topic(self._handle_heartbeat),
                down_topic(address, "command"): Topic(self._handle_command, max_waiting=_COMMANDS),
            },
            tick=self._tick,
        )
        self.link = FleetLink(
            config,
            outbox=self._outbox,
            identity=self._identity,
            state=self.reporter.state,
            collect=lambda: collect(None),
            receivers=self._downlink.receivers,
        )
        self._connection_problem = lambda: self.link.problem if self.link.connected else None
        self._profiling = ProfileOnCommand(
            bundle, policy=lambda: self.policies.active.policy, publish=self.link.publish_profile
        )
        self._published: State | None = None
        self._credit = _STATE_BURST
        self._credited = time.monotonic()

    @property
    def start_id(self) -> str:
        """The random name of this start of the agent."""
        return self._outbox.start

    def start(self) -> None:
        """Start to connect to the broker in the background, and to handle what arrives."""
        self._downlink.start()
        self.link.start()

    def stop(self) -> None:
        """Send the last messages and the offline state, and disconnect."""
        self._profiling.wait()
        self._downlink.stop()
        self.link.stop()

    def close(self) -> None:
        """Close the files. The policy on trial is not reverted at the next start."""
        self.policies.close()
        self._freshness.close()
        self._outbox.close()

    def _problems(self) -> list[str]:
        parts = (self._state_lock, self._outbox, self._identity, self._keys)
        found = [self._connection_problem(), self._bundle_problem, *(part.problem for part in parts)]
        return [*self.policies.summary.problems, *(problem for problem in found if problem is not None)]

    def _handle_policy(self, topic: str, envelope: bytes) -> None:
        self._rejected.pop(topic, None)
        if not envelope:
            _log.info("the retained policy was cleared; the active policy does not change")
            return
        self.policies.receive(envelope)
        if self.policies.summary.rejected is not None:
            self._rejected[topic] = envelope
        self._trial.check()
        self._publish_state_if_changed()

    def _handle_keys(self, history: bytes) -> None:
        if history and self._keys.receive(history):
            self.policies.update_keys(self._keys.trusted)
            self._check_bundle()
            for topic, envelope in list(self._rejected.items()):
                self._handle_policy(topic, envelope)
            self._trial.check()
            self._publish_state_if_changed()

    def _check_bundle(self) -> None:
        """Note that the bundle in use would be refused at the next start, because its key was revoked."""
        self._bundle_problem = None
        if self._checks_bundle:
            keys = self._keys.trusted
            try:
                self._bundle.verify_signature(keys.keys("bundle"), threshold=keys.threshold("bundle"))
            except BundleError as error:
                self._bundle_problem = f"the agent will not start again with this bundle: {error}"
                _log.warning("%s", self._bundle_problem)

    def _handle_heartbeat(self, envelope: bytes) -> None:
        if envelope:
            self._freshness.receive(envelope, self._keys.trusted)

    def _handle_command(self, envelope: bytes) -> None:
        command = self._commands.accept(envelope, self._keys.trusted)
        _log.info("received the command '%s'", command.action)
        if command.action == "report":
            self._collect(self.policies.active.revision)
            self.link.wake()
        else:
            self._profiling.start()

    def _tick(self) -> None:
        """Do what is due; called every second."""
        with contextlib.suppress(ConfigError):  # it is a problem in the state
            self._state_lock.retake()
        if self._state_lock.retaken != self._retaken:
            self._retaken = self._state_lock.retaken
            self.policies.store_again()
            self._keys.store_again()
            self._identity.store_again()
        self.policies.retry()
        self._keys.retry()
        self._identity.retry()
        self._trial.check()
        self._freshness.check(self.policies.received, can_verify=bool(self._keys.trusted.keys("policy")))
        self._publish_state_if_changed()

    def _publish_state_if_changed(self) -> None:
        """Publish the state if it differs in more than the time and the counter of the last heartbeat."""
        now = time.monotonic()
        self._credit = min(_STATE_BURST, self._credit + (now - self._credited) / _STATE_S)
        self._credited = now
        state = self.reporter.state(True)  # noqa: FBT003 - `online`
        confirmed = state.confirmed and msgspec.structs.replace(state.confirmed, counter=0)
        state = msgspec.structs.replace(state, uptime_s=0.0, confirmed=confirmed)
        if self._published is None:
            self._published = state  # the link publishes it when it connects
        elif state != self._published and self._credit >= 1:
            self._published, self._credit = state, self._credit - 1
            self.link.publish_state()
