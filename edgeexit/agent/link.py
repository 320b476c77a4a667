"""The agent's line to its fleet: state, reports, audits and profile up; policies, acks and commands down.

Everything here runs in the session's network thread or the link's own; inference waits for neither.
"""

import contextlib
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from edgeexit.agent.config import AgentConfig
from edgeexit.agent.outbox import Outbox
from edgeexit.agent.policy_store import one_line
from edgeexit.agent.window import Window
from edgeexit.wire import (
    MAX_BYTES,
    Ack,
    BrokerSession,
    Command,
    Delivery,
    Message,
    State,
    UpKind,
    decode,
    down_topic,
    encode,
    policy_topic,
    up_topic,
)

_log = logging.getLogger(__name__)

_INBOX: Final = 100
_MAX_WAIT_S: Final = 60.0


class FleetLink:
    """Keeps the line up, sends what waits in the outbox, and passes on what comes in.

    Args:
        config: who this device is and where its broker is.
        bundle: digest of the bundle that runs.
        outbox: what has to arrive.
        state: gives the state to tell, `online` or not.
        collect: called every `report_interval_s`; puts reports and audits into the outbox.
        on_policy: takes an envelope from a policy topic.
        on_command: takes a command.

    All four are called in the link's thread, `state` also in the thread that makes or stops the link.

    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        bundle: str,
        outbox: Outbox,
        state: Callable[[bool], State],
        collect: Callable[[], None],
        on_policy: Callable[[bytes], None],
        on_command: Callable[[Command], None],
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._state = state
        self._collect = collect
        self._on_policy = on_policy
        self._on_command = on_command
        address = config.address
        self._ack_topic = down_topic(address, "ack")
        self._command_topic = down_topic(address, "command")
        self._policy_topics = (policy_topic(config.fleet, bundle, config.cohort), down_topic(address, "policy"))
        self._inbox: queue.Queue[Delivery | None] = queue.Queue(_INBOX)
        self._policies: dict[str, Delivery] = {}
        """Topic -> its newest policy, outside the inbox: that may be full, and a policy comes once."""
        self._windows = [Window(outbox, kind, resend_s=config.resend_s) for kind in ("report", "audit")]
        self._came_up = threading.Event()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._profile: Message | None = None
        self._thread = threading.Thread(target=self._work, name="agent-link", daemon=True)
        self._session = BrokerSession(
            config.broker,
            client_id=f"edgeexit.{address.fleet}.{address.shard}.{address.device}",
            subscriptions=(self._ack_topic, self._command_topic, *self._policy_topics),
            on_message=self._take,
            on_connect=self._connected,
            session_expiry_s=0,  # nothing on the way down is missed: policies are retained, acks come again
            will=(up_topic(address, "state"), encode(state(False))),  # noqa: FBT003 - `online`
        )

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._session.connected

    @property
    def waiting(self) -> int:
        """Number of messages in the outbox; asking for it touches no disk."""
        return self._outbox.count

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()
        self._session.start()

    def stop(self) -> None:
        """Collect and send once more, say that the device is going offline, and disconnect."""
        self._stopping.set()
        self.wake()
        self._thread.join(timeout=5)
        if self.connected:
            self._publish("state", self._state(False), retain=True)  # noqa: FBT003 - `online`
        self._session.stop()

    def wake(self) -> None:
        """Have the outbox looked at now."""
        if not self._woken.is_set():
            self._woken.set()
            with contextlib.suppress(queue.Full):  # then it is looked at anyway
                self._inbox.put_nowait(None)

    def publish_state(self) -> None:
        """Tell the device's state, retained."""
        self._publish("state", self._state(True), retain=True)  # noqa: FBT003 - `online`

    def publish_profile(self, profile: Message) -> None:
        """Tell a latency profile, retained; told again at every connect."""
        self._profile = profile
        self._publish("profile", profile, retain=True)

    def _publish(self, kind: UpKind, message: Message, *, retain: bool) -> bool:
        return self._session.publish(up_topic(self._config.address, kind), encode(message), retain=retain)

    def _connected(self) -> None:
        self._came_up.set()
        self.wake()

    def _take(self, delivery: Delivery) -> None:
        """Take a message in the network thread; one that is too large is cut there, and refused as such later."""
        if len(delivery.payload) > MAX_BYTES:
            delivery = Delivery(topic=delivery.topic, payload=delivery.payload[: MAX_BYTES + 1], ack=delivery.ack)
        if delivery.topic in self._policy_topics:
            if delivery.payload:
                self._policies[delivery.topic] = delivery
                self.wake()
            else:
                _log.info("a retained policy was cleared; the one in force stays")
            return
        try:
            self._inbox.put_nowait(delivery)
        except queue.Full:
            _log.warning("message on '%s' is dropped: more come in than can be dealt with", one_line(delivery.topic))

    def _work(self) -> None:
        interval_s = self._config.report_interval_s
        report_due = time.monotonic() + interval_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads a fleet
        resend_due = math.inf
        while not self._stopping.is_set():
            wait_s = min(report_due, resend_due) - time.monotonic()
            with contextlib.suppress(queue.Empty):
                delivery = self._inbox.get(timeout=min(max(wait_s, 0.0), _MAX_WAIT_S))
                self._woken.clear()
                if delivery is not None:
                    self._receive(delivery)
            for topic in self._policy_topics:
                if (policy := self._policies.pop(topic, None)) is not None:
                    self._receive(policy)
            try:
                if time.monotonic() >= report_due:
                    report_due = time.monotonic() + interval_s
                    self._collect()
                resend_due = self._send()
            except Exception:  # noqa: BLE001 - the line must outlive any one message
                _log.exception("agent link")
                resend_due = time.monotonic() + self._config.resend_s
        try:
            self._collect()
            self._send()
        except Exception:  # noqa: BLE001 - stopping goes on
            _log.exception("agent link")

    def _receive(self, delivery: Delivery) -> None:
        try:
            if delivery.topic in self._policy_topics:
                self._on_policy(delivery.payload)
            elif delivery.topic == self._ack_topic:
                self._outbox.acknowledge(decode(delivery.payload, Ack))
            elif delivery.topic == self._command_topic:
                self._on_command(decode(delivery.payload, Command))
            # Anything else comes of a subscription that the broker remembers from another bundle or cohort.
        except Exception as error:  # noqa: BLE001 - whatever a message does, the next one is heard
            _log.warning("message on '%s' is ignored: %s", delivery.topic, one_line(f"{type(error).__name__}: {error}"))

    def _send(self) -> float:
        """Send what is due from the outbox; return when something is due to be sent again."""
        if not self.connected:
            return math.inf
        if self._came_up.is_set():
            self._came_up.clear()
            for window in self._windows:
                window.lost()
            self.publish_state()
            if self._profile is not None:
                self.publish_profile(self._profile)
        now = time.monotonic()
        for window in self._windows:
            for sequence in window.due(now):
                payload = self._outbox.payload(sequence)
                if payload is not None and self._session.publish(up_topic(self._config.address, window.kind), payload):
                    window.sent(sequence, now)
        return min(window.resend_due() for window in self._windows)
