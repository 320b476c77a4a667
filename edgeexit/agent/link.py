"""Connects the agent to its fleet: sends state, reports, audits and profile; receives acks, and passes on the rest.

All work is done in the network thread of the MQTT session and in the thread of the link. Inference waits for neither.
"""

import contextlib
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from edgeexit.agent.config import AgentConfig
from edgeexit.agent.identity import DeviceIdentity
from edgeexit.agent.outbox import Outbox
from edgeexit.agent.send_window import SendWindow
from edgeexit.log_text import one_line
from edgeexit.wire import (
    MAX_BYTES,
    Ack,
    BrokerSession,
    Delivery,
    Message,
    SessionOptions,
    State,
    UpKind,
    decode,
    down_topic,
    encode,
    up_topic,
)

_log = logging.getLogger(__name__)

_INBOX_SIZE: Final = 100
_MAX_WAIT_S: Final = 60.0


class FleetLink:
    """Connects to the broker, sends the messages of the outbox, and dispatches the messages that arrive.

    Args:
        config: who this device is and where its broker is.
        outbox: the messages to deliver.
        identity: signs the audits.
        state: returns the state to publish, for `online` True or False.
        collect: called every `report_interval_s`; adds reports and audits to the outbox.
        receivers: topic -> receives its messages in the network thread, and must return at once.

    `state` and `collect` run in the link's thread, and `state` also in the thread that creates or stops the link.

    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        outbox: Outbox,
        identity: DeviceIdentity,
        state: Callable[[bool], State],
        collect: Callable[[], None],
        receivers: Mapping[str, Callable[[bytes], None]],
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._identity = identity
        self._state = state
        self._collect = collect
        self._receivers = receivers
        address = config.address
        self._ack_topic = down_topic(address, "ack")
        self._inbox: queue.Queue[Delivery | None] = queue.Queue(_INBOX_SIZE)
        self._windows = [SendWindow(outbox, kind, resend_s=config.resend_s) for kind in ("report", "audit")]
        self._reconnected = threading.Event()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._profile: Message | None = None
        self._thread = threading.Thread(target=self._run, name="agent-link", daemon=True)
        self._session = BrokerSession(
            config.broker,
            SessionOptions(
                client_id=f"edgeexit.{address.fleet}.{address.shard}.{address.device}",
                subscriptions=(self._ack_topic, *receivers),
                session_expiry_s=0,  # an offline device misses nothing: policies are retained, acks are repeated
                will=(up_topic(address, "state"), encode(state(False))),  # noqa: FBT003 - `online`
            ),
            on_message=self._enqueue,
            on_connect=self._handle_connect,
        )

    @property
    def connected(self) -> bool:
        """True while the agent is connected to the broker."""
        return self._session.connected

    @property
    def unacknowledged(self) -> int:
        """Number of messages in the outbox; does not read the disk."""
        return self._outbox.count

    def start(self) -> None:
        """Start to connect in the background."""
        self._thread.start()
        self._session.start()

    def stop(self) -> None:
        """Collect and send a last time, publish the offline state, and disconnect."""
        self._stopping.set()
        self.wake()
        self._thread.join(timeout=5)
        if self.connected:
            self._publish("state", self._state(False), retain=True)  # noqa: FBT003 - `online`
        self._session.stop()

    def wake(self) -> None:
        """Wake the link's thread, so that it sends the messages of the outbox now."""
        if not self._woken.is_set():
            self._woken.set()
            with contextlib.suppress(queue.Full):  # the thread is awake if the inbox is full
                self._inbox.put_nowait(None)

    def publish_state(self) -> None:
        """Publish the device's state, retained."""
        self._publish("state", self._state(True), retain=True)  # noqa: FBT003 - `online`

    def publish_profile(self, profile: Message) -> None:
        """Publish a latency profile, retained, now and after every reconnect."""
        self._profile = profile
        self._publish("profile", profile, retain=True)

    def _publish(self, kind: UpKind, message: Message, *, retain: bool) -> bool:
        return self._session.publish(up_topic(self._config.address, kind), encode(message), retain=retain)

    def _handle_connect(self) -> None:
        self._reconnected.set()
        self.wake()

    def _enqueue(self, delivery: Delivery) -> None:
        """Queue a message; called in the network thread.

        A message that is too large is cut to `MAX_BYTES` + 1 bytes, so that it is rejected later because of its size.
        """
        if len(delivery.payload) > MAX_BYTES:
            delivery = Delivery(topic=delivery.topic, payload=delivery.payload[: MAX_BYTES + 1], ack=delivery.ack)
        if (receive := self._receivers.get(delivery.topic)) is not None:
            receive(delivery.payload)
            return
        try:
            self._inbox.put_nowait(delivery)
        except queue.Full:
            _log.warning("message on '%s' dropped: the inbox is full", one_line(delivery.topic))

    def _run(self) -> None:
        interval_s = self._config.report_interval_s
        report_due = time.monotonic() + interval_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads a fleet's reports
        resend_due = math.inf
        while not self._stopping.is_set():
            wait_s = min(report_due, resend_due) - time.monotonic()
            with contextlib.suppress(queue.Empty):
                delivery = self._inbox.get(timeout=min(max(wait_s, 0.0), _MAX_WAIT_S))
                self._woken.clear()
                if delivery is not None:
                    self._dispatch(delivery)
            try:
                if time.monotonic() >= report_due:
                    report_due = time.monotonic() + interval_s
                    self._collect()
                resend_due = self._send()
            except Exception:  # noqa: BLE001 - one message that fails must not end the thread
                _log.exception("reports and audits could not be collected or sent; retrying")
                resend_due = time.monotonic() + self._config.resend_s
        try:
            self._collect()
            self._send()
        except Exception:  # noqa: BLE001 - the agent must stop in any case
            _log.exception("the last reports and audits could not be collected or sent")

    def _dispatch(self, delivery: Delivery) -> None:
        try:
            if delivery.topic == self._ack_topic:
                self._outbox.acknowledge(decode(delivery.payload, Ack))
        except Exception as error:  # noqa: BLE001 - one message that fails must not end the thread
            _log.warning("message on '%s' ignored: %s", delivery.topic, one_line(f"{type(error).__name__}: {error}"))

    def _send(self) -> float:
        """Send the due messages of the outbox; return the monotonic time at which the next one must be sent again."""
        if not self.connected:
            return math.inf
        if self._reconnected.is_set():
            self._reconnected.clear()
            for window in self._windows:
                window.connection_lost()
            self.publish_state()
            if self._profile is not None:
                self.publish_profile(self._profile)
        now = time.monotonic()
        for window in self._windows:
            for sequence in window.due(now):
                payload, topic = self._outbox.payload(sequence), up_topic(self._config.address, window.kind)
                if payload is not None and window.kind == "audit":
                    payload = self._identity.sign_audit(payload, topic=topic)
                if payload is not None and self._session.publish(topic, payload):
                    window.sent(sequence, now)
        return min(window.resend_due() for window in self._windows)
